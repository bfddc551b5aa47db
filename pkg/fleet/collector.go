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

	"github.com/plainroute/plainroute/pkg/kube"
	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/status"
	"github.com/plainroute/plainroute/pkg/topology"
)

// Get requests a path of an agent. It ends with the context.
type Get func(ctx context.Context, agent *Agent, path string) (io.ReadCloser, error)

// Collector collects the reports of all agents.
type Collector struct {
	Client    *kube.Client
	Get       Get
	Namespace string        // has the agents; empty: the default namespaces are searched
	Parallel  int           // how many agents are queried at a time
	Timeout   time.Duration // bounds the query of each agent
	// Progress, unless nil, is called regularly by one goroutine with the number of agents done.
	Progress func(done, all int)
}

const (
	tick      = 100 * time.Millisecond // the interval of calls of Progress
	maxReport = 64 << 20               // far more than a Report of 5,000 peers takes, which is 3 MiB
)

// Collect queries all agents. An agent that doesn't answer has a Row without a Report; it returns
// an error if Nodes or agents can't be listed.
func (s *Collector) Collect(ctx context.Context) (*Cluster, error) {
	rows, pods, err := find(ctx, s.Client, s.Namespace)
	if err != nil {
		return nil, err
	}
	c := &Cluster{TypeMeta: status.TypeMeta("ClusterReport"), Time: time.Now().UTC().Truncate(time.Second), Nodes: rows}
	a := newAggregator(c)
	if err := s.each(ctx, running(rows, pods), func(ctx context.Context, row *Row) { s.query(ctx, a, row) }); err != nil {
		return nil, err
	}
	c.Problems = a.crossProblems()
	return c, nil
}

// query fills a Row with its agent's report, or the reason why there is none.
func (s *Collector) query(ctx context.Context, a *aggregator, row *Row) {
	report, err := FetchReport(ctx, s.Get, row)
	if err != nil {
		row.NoReport, row.Message = s.noReport(err, row)
		return
	}
	a.add(row, report)
}

// running sets the agent of each Row, and returns the Rows whose agent runs.
func running(rows []Row, pods map[string]*corev1.Pod) []*Row {
	var list []*Row
	for i := range rows {
		row, pod := &rows[i], pods[rows[i].Node]
		if pod == nil {
			continue
		}
		row.Agent, row.NoReport, row.Message = agentOf(pod), "", ""
		if reason := notRunning(pod); reason != "" {
			row.NoReport, row.Message = problem.NotRunning, "the agent does not run: "+reason
			continue
		}
		list = append(list, row)
	}
	return list
}

// each calls do for every Row, Parallel at a time. It returns at once when the context ends; calls
// that still wait for an agent end by themselves.
func (s *Collector) each(ctx context.Context, rows []*Row, do func(context.Context, *Row)) error {
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

// unreadable is the error of a response that is not a Report.
type unreadable struct{ error }

// FetchReport returns the report of a Row's agent; of the desired state it has the tunnels alone. It
// returns an error for any response that is not the report of that Node.
func FetchReport(ctx context.Context, get Get, row *Row) (*status.Report, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	body, err := get(ctx, row.Agent, "/status?brief=true")
	if err != nil {
		return nil, err
	}
	defer body.Close()
	var decoded struct {
		status.Report
		State struct { // half of the report, of which this is kept
			Tunnels []topology.Tunnel `json:"tunnels"`
		} `json:"state"`
	}
	err = json.NewDecoder(io.LimitReader(body, maxReport)).Decode(&decoded)
	report := &decoded.Report
	report.State.Tunnels = decoded.State.Tunnels
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case err != nil:
		return nil, unreadable{err}
	case report.Node == "":
		return nil, unreadable{errors.New("it lacks the node's name")}
	case report.Node != row.Node:
		return nil, unreadable{fmt.Errorf("it is that of node %s: two agents may share this host's network", report.Node)}
	}
	return report, nil
}

// noReport returns why there is no Report, and a message that names what to look at.
func (s *Collector) noReport(err error, row *Row) (problem.Reason, string) {
	var invalid unreadable
	switch {
	case apierrors.IsForbidden(err):
		return problem.Forbidden, fmt.Sprintf("you lack the right to create pods/portforward in the namespace %s, by which agents are queried (config/samples/viewer has all rights)", row.Agent.Namespace)
	case errors.As(err, &invalid):
		return problem.Unreadable, fmt.Sprintf("this version can't read the report of the agent (%s): %v", row.Agent.Image, invalid.error)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded): // of the context, of a connection
		err = fmt.Errorf("it runs, but did not answer within %s", s.Timeout)
	}
	text := fmt.Sprintf("no answer from the agent: %v", err)
	if row.NotReady != "" {
		text += "; the node is not ready: " + row.NotReady
	}
	return problem.NoAnswer, text
}
