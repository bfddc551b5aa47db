package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/kubernetes"

	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/status"
)

// Survey is a question to all agents.
type Survey struct {
	Client kubernetes.Interface
	// Ask gets an agent's answer to GET of a path. It ends when the context does.
	Ask func(ctx context.Context, agent *Agent, path string) (io.ReadCloser, error)
	// Namespace is where agents are looked for; empty: in all.
	Namespace string
	// Parallel is how many agents are asked at a time, and Timeout how long one may take.
	Parallel int
	Timeout  time.Duration
	// Progress, unless nil, is told now and then how many of all agents are done with. It is called by one goroutine.
	Progress func(done, all int)
}

// tick is how often Progress is told.
const tick = 100 * time.Millisecond

// maxReport is far more than a Report of 5,000 peers takes, which is 3 MiB.
const maxReport = 64 << 20

// Run asks all agents. That one doesn't answer is no error; that there is no list of Nodes and agents is.
func (s *Survey) Run(ctx context.Context) (*Cluster, error) {
	rows, pods, err := find(ctx, s.Client, s.Namespace)
	if err != nil {
		return nil, err
	}
	c := &Cluster{TypeMeta: status.TypeMeta("ClusterReport"), Time: time.Now().UTC().Truncate(time.Second), Nodes: rows}
	d := newDigest(c)
	if err := s.each(ctx, running(rows, pods), func(ctx context.Context, row *Row) { s.ask(ctx, d, row) }); err != nil {
		return nil, err
	}
	c.Problems = d.crossProblems()
	return c, nil
}

// ask fills a Row with what its agent says, or why it says nothing.
func (s *Survey) ask(ctx context.Context, d *digest, row *Row) {
	report, err := s.report(ctx, row)
	if err != nil {
		row.NoReport, row.Message = s.noReport(err, row)
		return
	}
	d.add(row, report)
}

// running gives each Row its agent, and returns those whose agent can be asked.
func running(rows []Row, pods map[string]*corev1.Pod) []*Row {
	var list []*Row
	for i := range rows {
		row := &rows[i]
		pod := pods[row.Node]
		if pod == nil {
			continue
		}
		row.Agent, row.NoReport, row.Message = agentOf(pod), "", ""
		if why := idle(pod); why != "" {
			row.NoReport, row.Message = problem.NotRunning, "the agent does not run: "+why
			continue
		}
		list = append(list, row)
	}
	return list
}

// each does something with every Row, so many at a time. It ends with the context at once; what then still waits for
// an agent ends by itself.
func (s *Survey) each(ctx context.Context, rows []*Row, do func(context.Context, *Row)) error {
	finished := make(chan struct{}, len(rows))
	go func() {
		var g errgroup.Group
		g.SetLimit(max(s.Parallel, 1))
		for _, row := range rows {
			g.Go(func() error {
				defer func() { finished <- struct{}{} }()
				ctx, cancel := context.WithTimeout(ctx, s.Timeout)
				defer cancel()
				do(ctx, row)
				return nil
			})
		}
	}()
	tick := time.NewTicker(tick)
	defer tick.Stop()
	for done := 0; done < len(rows); {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-finished:
			done++
		case <-tick.C:
			if s.Progress != nil {
				s.Progress(done, len(rows))
			}
		}
	}
	return ctx.Err()
}

// unreadable is an answer that is no Report.
type unreadable struct{ error }

func (s *Survey) report(ctx context.Context, row *Row) (*status.Report, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	body, err := s.Ask(ctx, row.Agent, "/status?brief=true")
	if err != nil {
		return nil, err
	}
	defer body.Close()
	var said struct {
		status.Report
		State struct{} `json:"state"` // half of it all, and not kept
	}
	err = json.NewDecoder(io.LimitReader(body, maxReport)).Decode(&said)
	report := &said.Report
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case err != nil:
		return nil, unreadable{err}
	case report.Node == "":
		return nil, unreadable{errors.New("it names no node")}
	case report.Node != row.Node:
		return nil, unreadable{fmt.Errorf("it is that of node %s: do two agents share this host's network?", report.Node)}
	}
	return report, nil
}

// noReport returns why there is no Report, and a message that names what to look at.
func (s *Survey) noReport(err error, row *Row) (problem.Reason, string) {
	var no unreadable
	switch {
	case apierrors.IsForbidden(err):
		return problem.Forbidden, fmt.Sprintf("you lack the right to create pods/portforward in the namespace %s, by which agents are asked (config/samples/viewer has all it takes)", row.Agent.Namespace)
	case errors.As(err, &no):
		return problem.Unreadable, fmt.Sprintf("the answer of the agent (%s) is no report that this version can read: %v", row.Agent.Image, no.error)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded): // of a pass, of a connection
		err = fmt.Errorf("it runs, and says nothing for %s", s.Timeout)
	}
	text := fmt.Sprintf("no answer from the agent: %v", err)
	if row.NotReady != "" {
		text += "; the node is not ready: " + row.NotReady
	}
	return problem.NoAnswer, text
}
