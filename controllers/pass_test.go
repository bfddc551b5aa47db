package controllers

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	dto "github.com/prometheus/client_model/go"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"github.com/plainroute/plainroute/pkg/ratelog"
	"github.com/plainroute/plainroute/pkg/status"
	"github.com/plainroute/plainroute/pkg/topology"
)

// A single is an agent without an API server, with a clock of its own: the test sets its Nodes and starts each pass, and records
// what each pass shows.
type single struct {
	*agent
	memory *memoryNodes
	clock  *stepClock
	story  bytes.Buffer
	seen   int                // entries of the host's journal so far
	logged int                // lines of the log
	values map[string]float64 // of metrics
	ranges string             // of which foreign routes were asked for
}

func newSingle(t *testing.T, o agentOptions) *single {
	t.Helper()
	s := &single{memory: &memoryNodes{}, clock: &stepClock{now: time.Unix(1e9, 0)}, values: map[string]float64{}}
	o.memory, o.clock, o.log = s.memory, s.clock.read, ratelog.New(s.clock.read)
	o.config = &rest.Config{Host: "https://127.0.0.1:1"}
	s.agent = newAgent(t, o)
	s.loop.flaps, s.loop.retries = newFlapGuard(s.clock.read), newRetries()
	s.metrics()
	return s
}

// list is a full list of Nodes.
func (s *single) list(nodes ...*corev1.Node) { s.memory.list(false, withUIDs(nodes)...) }

// set adds Nodes or changes them.
func (s *single) set(nodes ...*corev1.Node) { s.memory.set(withUIDs(nodes)...) }

// unset deletes Nodes.
func (s *single) unset(nodes ...*corev1.Node) { s.memory.unset(nodes...) }

// withUIDs gives each Node a UID that follows from its name.
func withUIDs(nodes []*corev1.Node) []*corev1.Node {
	for _, n := range nodes {
		n.UID = types.UID(n.Name)
	}
	return nodes
}

// pass runs a pass, and returns when the next one is due.
func (s *single) pass() time.Duration {
	s.t.Helper()
	return s.loop.Reconcile(s.log.into(s.t.Context()))
}

// then runs a pass and records all that it shows.
func (s *single) then(what string) {
	s.t.Helper()
	next := s.pass()
	fmt.Fprintf(&s.story, "# %s\n", what)
	s.made()
	last := s.latest.Last()
	if n := last.Pass.Changes; n > 0 {
		fmt.Fprintf(&s.story, "changes: %d\n", n)
	}
	for _, p := range last.Problems {
		own := ""
		if p.BlocksReady {
			own = " (not ready)"
		}
		fmt.Fprintf(&s.story, "problem: %s%s\n", p, own)
	}
	s.peers(last)
	s.metrics()
	s.lines()
	if next > 0 {
		fmt.Fprintf(&s.story, "next pass: after %s\n", next)
	}
	s.story.WriteByte('\n')
}

// made records the changes of the host. The first read of each pass is left out.
func (s *single) made() {
	done := s.host.since(s.seen)
	s.seen += len(done)
	for i, line := range done {
		if i > 0 || line != "observe" {
			fmt.Fprintln(&s.story, line)
		}
	}
	var ranges []string
	for _, p := range s.host.concerns {
		if p.Addr().Is4() {
			ranges = append(ranges, p.String())
		}
	}
	if now := strings.Join(ranges, " "); now != s.ranges {
		fmt.Fprintf(&s.story, "foreign routes matter in %s\n", now)
		s.ranges = now
	}
}

// peers records the peers whose state this pass has changed, or which it has repaired.
func (s *single) peers(last *status.Result) {
	report := last.Report()
	for _, p := range report.Peers {
		if p.Repaired.Equal(last.Pass.Time) {
			fmt.Fprintf(&s.story, "peer: %s %s was repaired\n", p.Node, p.Subnet)
		}
		if p.Since.Equal(last.Pass.Time) {
			fmt.Fprintf(&s.story, "peer: %s %s is %s now\n", p.Node, p.Subnet, p.State)
		}
	}
}

// metrics records those that have changed, and of histograms the number of observations.
func (s *single) metrics() {
	families, err := s.registry.Gather()
	if err != nil {
		s.t.Fatal(err)
	}
	for _, f := range families {
		name := strings.TrimPrefix(f.GetName(), "plainroute_")
		if strings.HasSuffix(name, "timestamp_seconds") || name == "pass_duration_seconds" || name == "build_info" {
			continue
		}
		for _, m := range f.GetMetric() {
			s.series(strings.TrimSpace(name+" "+labelValues(m)), f.GetType(), m)
		}
	}
}

func (s *single) series(name string, kind dto.MetricType, m *dto.Metric) {
	now := m.GetGauge().GetValue() + m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
	was := s.values[name]
	if now == was {
		return
	}
	s.values[name] = now
	if kind == dto.MetricType_GAUGE {
		fmt.Fprintf(&s.story, "metric: %s = %v\n", name, now)
		return
	}
	fmt.Fprintf(&s.story, "metric: %s +%v\n", name, now-was)
}

var timeOfLine = regexp.MustCompile(`^time=\S+ level=INFO msg=`)

// lines records the lines of the log, sorted, because the order of one pass's lines is random.
func (s *single) lines() {
	all := s.log.with()
	lines := slices.Clone(all[s.logged:])
	s.logged = len(all)
	for i, line := range lines {
		lines[i] = timeOfLine.ReplaceAllString(line, "")
	}
	slices.Sort(lines)
	for _, line := range lines {
		fmt.Fprintf(&s.story, "log: %s\n", line)
	}
}

// check fails unless the story is the content of a file of testdata/stories.
func (s *single) check(name string) {
	s.t.Helper()
	checkStory(s.t, name, s.story.String())
}

func checkStory(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", "stories", name+".txt")
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(got, "\n")); diff != "" {
		t.Errorf("%s (-) and what is shown (+):\n%s", file, diff)
	}
}

// After many changes another pass follows at once, and finds nothing to do.
func TestPassSettles(t *testing.T) {
	s := newSingle(t, agentOptions{})
	numbers := make([]int, 100)
	for i := range numbers {
		numbers[i] = i + 2
	}
	s.list(own(numbers...)...)
	if wait := s.pass(); wait != settleAfter {
		t.Errorf("after %d changes the next pass is due after %s", s.latest.Last().Pass.Changes, wait)
	}
	if wait := s.pass(); wait == settleAfter || s.latest.Last().Pass.Changes != 0 {
		t.Errorf("after %d changes the next pass is due after %s", s.latest.Last().Pass.Changes, wait)
	}
	s.unset(peers(50)...)
	if wait := s.pass(); wait == settleAfter || s.latest.Last().Pass.Changes == 0 {
		t.Errorf("after %d changes the next pass is due after %s", s.latest.Last().Pass.Changes, wait)
	}
}

// Routes of an earlier version are replaced, without a gap and without a confirmation.
func TestRoutesOfAnEarlierVersion(t *testing.T) {
	s := newSingle(t, agentOptions{host: func(h *memoryHost) {
		for i := range 20 {
			leaveBehind(i + 2)(h)
			h.state.Routes[i].Metric = topology.MetricPeer
		}
		slices.SortFunc(h.state.Routes, topology.CompareRoutes)
	}})
	numbers := make([]int, 20)
	for i := range numbers {
		numbers[i] = i + 2
	}
	s.list(own(numbers...)...)
	s.pass()
	added := map[string]bool{}
	for _, line := range s.host.since(0) {
		op, route, _ := strings.Cut(line, " ")
		subnet, rest, _ := strings.Cut(route, " ")
		switch {
		case op == "add":
			added[subnet] = true
		case op == "delete" && (!added[subnet] || !strings.HasSuffix(rest, "metric 2048")):
			t.Error(line)
		}
	}
	for _, r := range s.host.state.Routes {
		if r.Type == topology.Unicast && r.Metric != topology.PeerMetric(r.Dst) {
			t.Errorf("%q is still there", r)
		}
	}
	if len(added) < 20 {
		t.Errorf("added are %v", added)
	}
}
