package controllers

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/rest"

	"github.com/plainroute/plainroute/pkg/nodes"
	"github.com/plainroute/plainroute/pkg/nodestatus"
	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/ratelog"
	"github.com/plainroute/plainroute/pkg/servicecidr"
	"github.com/plainroute/plainroute/pkg/status"
	"github.com/plainroute/plainroute/pkg/topology"
	"github.com/plainroute/plainroute/test/apiserver"
)

// limit is what a wait may take on a machine under load.
const limit = 20 * time.Second

// agent is the real loop with the real Node source, on a host in memory.
type agent struct {
	t        *testing.T
	host     *memoryHost
	latest   *status.Latest
	registry *prometheus.Registry
	log      *logBook
	nodes    *peekedSource   // nil: its Nodes are in memory
	writer   *recordedWriter // nil: none
	server   http.Handler
	loop     *NodeReconciler
	ended    chan error // what the loop returns
	stop     func()     // ends the agent
}

// agentOptions are what tests vary; the zero value is node1 on the LAN.
type agentOptions struct {
	config *rest.Config
	ignore string
	edit   func(*topology.Options)
	host   func(*memoryHost) // changes it before the agent runs
	on     *memoryHost       // a host that an earlier agent left; nil: a new one
	memory *memoryNodes      // nil: Nodes come from the API server
	writer bool              // it patches its Node in all ways
	events *steppedEvents    // nil: it writes none
	ranges bool              // it watches ServiceCIDRs
	log    *ratelog.Log      // nil: one with the machine's clock
	clock  func() time.Time  // of how long the runtime has had no network; nil: the machine's
}

// startAgent runs an agent until the test ends.
func startAgent(t *testing.T, o agentOptions) *agent {
	t.Helper()
	if o.config == nil {
		o.config = apiserver.Start(t).Reader
	}
	a := newAgent(t, o)
	a.run()
	return a
}

// newAgent makes an agent that does not run.
func newAgent(t *testing.T, o agentOptions) *agent {
	t.Helper()
	host, err := newMemoryHost()
	if err != nil {
		t.Fatal(err)
	}
	if o.on != nil {
		host = o.on
		host.watched = make(chan struct{})
	}
	a := &agent{t: t, host: host, latest: &status.Latest{}, registry: prometheus.NewRegistry(), log: &logBook{}}
	opts := topology.Options{
		NodeName: "node1", Masquerade: true, Bridge: "plainroute0", RunDir: "/run/plainroute",
		ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")},
	}
	if o.edit != nil {
		o.edit(&opts)
	}
	if o.host != nil {
		o.host(host)
	}
	source := a.source(o, opts.NodeName)
	r := &NodeReconciler{
		Options: opts, Nodes: source, Dataplane: host, Watcher: host, Resync: time.Hour,
		Latest: a.latest, Metrics: NewMetrics(a.registry, Build{"test", "abc"}, a.latest, source.Health), Version: "test", log: o.log,
		ConfigPath: "/etc/cni/net.d/10-plainroute.conflist",
	}
	if o.events != nil {
		r.Events, o.events.log = o.events, a.log
	}
	if o.clock != nil {
		r.unread = &unreadConfig{now: o.clock}
	}
	if o.writer {
		writer, err := nodestatus.NewWriter(o.config, "node1", true, apiserver.StartupTaint)
		if err != nil {
			t.Fatal(err)
		}
		a.writer = &recordedWriter{Writer: writer}
		r.NodeStatus = a.writer
	}
	if o.ranges {
		if r.Services, err = servicecidr.New(o.config, opts.ClusterCIDRs); err != nil {
			t.Fatal(err)
		}
	}
	a.loop = r
	a.server = (&status.Server{
		Latest: a.latest, Healthy: r.Healthy, Metrics: a.registry, Status: true, API: func() status.API { return APIStatus(source.Health()) },
		Observe: func() (topology.State, error) { return host.Observe(context.Background()) },
	}).HTTP().Handler
	return a
}

// testSource is a NodeSource with its health.
type testSource interface {
	NodeSource
	Health() nodes.Health
}

// peekedSource is a Source whose view tests read as well.
type peekedSource struct {
	*nodes.Source

	mu    sync.Mutex
	since time.Time // of changes that peek has seen, and no pass
}

// View returns the view to a pass.
func (s *peekedSource) View() nodes.View {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := s.Source.View()
	if !s.since.IsZero() {
		v.Since, s.since = s.since, time.Time{}
	}
	return v
}

// peek returns the view to a test.
func (s *peekedSource) peek() nodes.View {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := s.Source.View()
	if s.since.IsZero() {
		s.since = v.Since
	}
	return v
}

func (a *agent) source(o agentOptions, own string) testSource {
	a.t.Helper()
	if o.memory != nil {
		o.memory.own = own
		return o.memory
	}
	var selector labels.Selector
	if o.ignore != "" {
		var err error
		if selector, err = labels.Parse(o.ignore); err != nil {
			a.t.Fatal(err)
		}
	}
	source, err := nodes.New(o.config, selector)
	if err != nil {
		a.t.Fatal(err)
	}
	source.Own = own
	a.nodes = &peekedSource{Source: source}
	return a.nodes
}

func (a *agent) run() {
	a.t.Helper()
	ctx, cancel := context.WithCancel(a.log.into(context.Background()))
	a.ended = make(chan error, 1)
	go func() {
		a.ended <- a.loop.Run(ctx)
		close(a.ended)
	}()
	a.stop = func() {
		cancel()
		if err := <-a.ended; err != nil {
			a.t.Error("the loop ended with", err)
		}
	}
	a.t.Cleanup(func() {
		a.stop()
		if a.t.Failed() {
			a.t.Log("the agent's log:\n" + strings.Join(a.log.with(), "\n"))
		}
	})
}

// eventually waits until f has no objection any more.
func (a *agent) eventually(f func() error) {
	a.t.Helper()
	a.within(limit, f)
}

func (a *agent) within(d time.Duration, f func() error) {
	a.t.Helper()
	deadline := time.Now().Add(d)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			a.t.Fatalf("after %s still: %v\nproblems: %v", d, err, a.latest.Last().Problems)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// hasRoutes returns an error unless exactly these are our routes to peers.
func (a *agent) hasRoutes(want ...string) func() error {
	return func() error {
		have := slices.DeleteFunc(a.host.reached(), func(r string) bool { return strings.HasPrefix(r, "unreachable") })
		for i, r := range have {
			have[i], _, _ = strings.Cut(r, " dev eth0 proto 112 metric ")
		}
		if !slices.Equal(have, want) {
			return fmt.Errorf("routes are %q, want %q", have, want)
		}
		return nil
	}
}

// routeCount returns an error unless there are so many routes to peers.
func (a *agent) routeCount(want int) error {
	have := slices.DeleteFunc(a.host.routes(), func(r string) bool { return strings.HasPrefix(r, "unreachable") })
	if len(have) != want {
		return fmt.Errorf("there are %d routes, want %d: %q", len(have), want, have)
	}
	return nil
}

// ready returns an error unless /readyz answers 200, and the kernel's part and the CNI
// config are there.
func (a *agent) ready() error {
	if code, body := a.get("/readyz"); code != http.StatusOK {
		return fmt.Errorf("readyz is %d %s", code, body)
	}
	var err error
	a.host.with(func() {
		if a.host.state.CNI == nil || a.host.state.Masquerade == nil || a.host.state.Sysctls[topology.SysctlForward4] != "1" {
			err = errors.New("ready without CNI config, masquerading or forwarding")
		}
	})
	return err
}

// notReady returns an error unless /readyz answers 503 with these words.
func (a *agent) notReady(words ...string) func() error {
	return func() error {
		code, body := a.get("/readyz")
		if code != http.StatusServiceUnavailable {
			return fmt.Errorf("readyz is %d, want 503", code)
		}
		for _, w := range words {
			if !strings.Contains(body, w) {
				return fmt.Errorf("readyz says %q, want %q in it", body, w)
			}
		}
		return nil
	}
}

func (a *agent) get(path string) (int, string) {
	w := httptest.NewRecorder()
	a.server.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
	return w.Code, w.Body.String()
}

// problems returns the Problems of a Node as the latest Result has them.
func (a *agent) problems(node string) []problem.Problem {
	return slices.DeleteFunc(slices.Clone(a.latest.Last().Problems), func(p problem.Problem) bool { return p.Node != node })
}

// metric returns the sum of a metric's values whose labels are these.
func (a *agent) metric(name string, labels map[string]string) float64 {
	a.t.Helper()
	families, err := a.registry.Gather()
	if err != nil {
		a.t.Fatal(err)
	}
	sum := 0.0
	for _, family := range families {
		if family.GetName() != name {
			continue
		}
		for _, m := range family.GetMetric() {
			matched := 0
			for _, l := range m.GetLabel() {
				if labels[l.GetName()] == l.GetValue() {
					matched++
				}
			}
			if matched == len(labels) {
				sum += m.GetGauge().GetValue() + m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
			}
		}
	}
	return sum
}

// sees returns an error unless these are the Nodes that the next pass will see.
func (a *agent) sees(want ...string) func() error {
	return func() error {
		var have []string
		for _, n := range a.nodes.peek().Nodes {
			have = append(have, n.Name)
		}
		if slices.Sort(have); !slices.Equal(have, want) {
			return fmt.Errorf("the Nodes seen are %q, want %q", have, want)
		}
		return nil
	}
}

func (a *agent) passes() int64 { return a.latest.Last().Pass.Number }

// metricIs returns an error unless the metric has the value; a pass may be about to set it.
func (a *agent) metricIs(want float64, name string, labels map[string]string) func() error {
	return func() error {
		if got := a.metric(name, labels); got != want {
			return fmt.Errorf("%s%v is %v, want %v", name, labels, got, want)
		}
		return nil
	}
}

// settle waits until no pass runs, and none has for a while.
func (a *agent) settle() {
	a.t.Helper()
	last, since := a.passes(), time.Now()
	a.eventually(func() error {
		if n := a.passes(); n != last || a.loop.running.Load() != nil {
			last, since = n, time.Now()
		}
		if time.Since(since) < 300*time.Millisecond {
			return errors.New("passes are running")
		}
		return nil
	})
}

// onePassMore waits for a pass that begins now.
func (a *agent) onePassMore() {
	a.t.Helper()
	last := a.passes()
	a.host.disturb(func() {})
	a.eventually(func() error {
		if a.passes() == last {
			return errors.New("no pass has run")
		}
		return nil
	})
}

func contains(lines []string, part string) bool {
	return slices.ContainsFunc(lines, func(l string) bool { return strings.Contains(l, part) })
}

// hasProblem returns an error unless there is a Problem of the Node with the reason.
func (a *agent) hasProblem(node string, reason problem.Reason) error {
	for _, p := range a.problems(node) {
		if p.Reason == reason {
			return nil
		}
	}
	return fmt.Errorf("no %s of node %q", reason, node)
}
