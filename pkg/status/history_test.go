package status

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/topology"
)

func at(second int) time.Time { return time.Date(2026, 1, 2, 3, 4, second, 0, time.UTC) }

// passAt is the Result of a pass in which so many peers are fine.
func passAt(second, peers int, problems ...problem.Problem) *Result {
	r := &Result{Known: true, Pass: Pass{Time: at(second)}, Problems: problems}
	for i := range peers {
		subnet, via := fmt.Sprintf("10.244.%d.0/24", i), fmt.Sprintf("192.168.1.%d", i+1)
		r.Nodes = append(r.Nodes, &topology.Node{Name: fmt.Sprintf("node%d", i), PodCIDRs: prefixes(subnet), Addrs: addrs(via)})
		r.Desired.Routes = append(r.Desired.Routes, peerRoute(subnet, via))
	}
	return r
}

func subnetOf(i int) netip.Prefix { return netip.MustParsePrefix(fmt.Sprintf("10.244.%d.0/24", i)) }

// dates returns the times of each peer by a History, in seconds: since/repaired.
func dates(h *History, r *Result) string {
	peers := (&Result{Nodes: r.Nodes, Desired: r.Desired, Problems: r.Problems, History: h}).peers()
	var words []string
	for _, p := range peers {
		word := fmt.Sprint(p.Since.Second())
		if !p.Repaired.IsZero() {
			word += fmt.Sprint("/", p.Repaired.Second())
		}
		words = append(words, word)
	}
	return strings.Join(words, " ")
}

func TestHistory(t *testing.T) {
	h := &History{}
	step := func(before, after *Result, want string, touch ...func(*Touched)) {
		t.Helper()
		var touched Touched
		for _, f := range touch {
			f(&touched)
		}
		h.Note(before, after, touched)
		if got := dates(h, after); got != want {
			t.Errorf("the peers are there since %q, want %q", got, want)
		}
	}
	route := func(i int) func(*Touched) { return func(t *Touched) { t.Route(subnetOf(i)) } }
	repair := func(i int) func(*Touched) { return func(t *Touched) { t.Repair(subnetOf(i)) } }
	node := func(name string) func(*Touched) { return func(t *Touched) { t.Node(name) } }
	conflict := problem.Problem{Subject: problem.Node("node1"), Reason: problem.RouteConflict, Message: "one"}
	other := problem.Problem{Subject: problem.Node("node1"), Reason: problem.RouteConflict, Message: "another"}

	first := passAt(1, 2)
	step(&Result{}, first, "1 1", route(0), route(1))
	step(first, passAt(2, 2), "1 1")
	step(first, passAt(3, 2), "1 1/3", route(1), repair(1))
	step(first, passAt(4, 3), "1 1/3 4", route(2))
	fought := passAt(5, 3, conflict)
	step(passAt(4, 3), fought, "1 5/3 4", node("node1"))
	step(fought, passAt(6, 3, other), "1 5/3 4", node("node1"))
	step(fought, passAt(7, 3), "1 7/3 4", node("node1"))
	// The last one leaves, and another of its name is a newcomer.
	step(passAt(7, 3), passAt(8, 1), "1", route(1), route(2))
	step(passAt(8, 1), passAt(9, 2), "1 9", route(1))
}

// The stamps of Nodes that left are bounded.
func TestHistoryForgets(t *testing.T) {
	h := &History{}
	before := passAt(1, 1)
	h.Note(&Result{}, before, Touched{})
	for i := range 1000 {
		after := passAt(2, 1)
		after.Nodes = append(after.Nodes, &topology.Node{Name: fmt.Sprint("visitor", i), PodCIDRs: prefixes("10.245.0.0/24")})
		var touched Touched
		touched.Node(after.Nodes[1].Name)
		h.Note(before, after, touched)
		before = after
	}
	if len(h.stamps) > 100 {
		t.Errorf("it remembers %d Nodes of which there are 2", len(h.stamps))
	}
}

// A History has nothing to do where nothing was touched, in a cluster of any size.
func TestQuietPassesCostNothing(t *testing.T) {
	h := &History{}
	r := large()
	r.Known, r.Pass.Time = true, at(1)
	h.Note(&Result{}, r, Touched{})
	if n := allocations(10, func() { h.Note(r, r, Touched{}) }); n > 0 {
		t.Errorf("a quiet pass costs %v allocations", n)
	}
	if len(h.stamps) > 0 {
		t.Errorf("of the first pass %d stamps are kept", len(h.stamps))
	}
}

// However many clients there are, the kernel is read once a second, and a later client gets the
// state of its own time.
func TestKernelIsLookedAtOnceASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		r := example()
		r.Known = true
		s.Latest.Publish(r)
		looks, lastEvent := 0, at(1)
		s.API = func() API { return API{LastEvent: lastEvent} }
		actual := r.Desired
		s.Observe = func() (topology.State, error) { looks++; return actual, nil }
		for range 20 {
			if _, _, body := ask(s, "GET", "/status"); strings.Contains(body, `"missing"`) || !strings.Contains(body, `"lastEvent": "2026-01-02T03:04:01Z"`) {
				t.Fatal(body)
			}
		}
		if looks != 1 {
			t.Errorf("the kernel was looked at %d times", looks)
		}
		actual.Routes, lastEvent = nil, at(2)
		deadline := time.Now().Add(10 * cacheTime)
		for _, body := "", ""; !strings.Contains(body, `"missing"`); _, _, body = ask(s, "GET", "/status") {
			if time.Now().After(deadline) {
				t.Fatal("still what was there before:", body)
			}
			time.Sleep(cacheTime / 10)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if !strings.Contains(string(s.cache[false].body), `"lastEvent": "2026-01-02T03:04:02Z"`) {
			t.Error("what is lastEvent meanwhile is not told")
		}
	})
}

// A brief report leaves out the desired routes and settings.
func TestBriefReport(t *testing.T) {
	s := newServer()
	s.Latest.Publish(example())
	_, _, body := ask(s, "GET", "/status?brief=true")
	var whole, brief Report
	if err := json.Unmarshal([]byte(body), &brief); err != nil {
		t.Fatal(err)
	}
	if brief.State.Routes != nil || brief.State.Masquerade != nil || brief.State.Sysctls != nil || brief.State.CNI == nil || len(brief.Peers) != 6 {
		t.Errorf("the brief report is %s", body)
	}
	_, _, body = ask(s, "GET", "/status")
	if err := json.Unmarshal([]byte(body), &whole); err != nil || len(whole.State.Routes) != 5 {
		t.Errorf("the whole report is %s, %v", body, err)
	}
}

// Probes don't wait for a kernel that is slow to answer.
func TestProbesDontWaitForALook(t *testing.T) {
	s := newServer()
	r := example()
	r.Known = true
	s.Latest.Publish(r)
	asked, release := make(chan struct{}), make(chan struct{})
	s.Observe = func() (topology.State, error) {
		close(asked)
		<-release
		return topology.State{}, errors.New("no memory")
	}
	answer := make(chan string)
	go func() {
		_, _, body := ask(s, "GET", "/status")
		answer <- body
	}()
	<-asked
	for _, path := range []string{"/healthz", "/readyz", "/metrics"} {
		if code, _, _ := ask(s, "GET", path); code != 200 {
			t.Errorf("%s is %d", path, code)
		}
	}
	close(release)
	if body := <-answer; !strings.Contains(body, `"error": "no memory"`) {
		t.Error(body)
	}
}
