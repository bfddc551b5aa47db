package nodestatus

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/plainroute/plainroute/pkg/problem"
)

// A scene runs a schedule with a clock of its own, and records the Events that are written.
type scene struct {
	schedule *schedule
	now      time.Time
	begin    time.Time
	problems map[problem.Reason]string
	ready    bool
	nodes    int
	err      error // of all writes
	written  []string
	at       []time.Duration
}

func newScene(random float64) *scene {
	begin := time.Unix(1e9, 0)
	return &scene{schedule: newSchedule(func() float64 { return random }), now: begin, begin: begin, ready: true, nodes: 3}
}

// is sets the note of a problem; "" ends it.
func (s *scene) is(reason problem.Reason, note string) {
	problems := map[problem.Reason]string{}
	for r, n := range s.problems {
		problems[r] = n
	}
	if problems[reason] = note; note == "" {
		delete(problems, reason)
	}
	s.problems, s.ready = problems, len(problems) == 0
	s.look()
}

// pass lets time pass as Events does: from one wait to the next.
func (s *scene) pass(d time.Duration) {
	for end := s.now.Add(d); ; {
		wait := s.look()
		if wait <= 0 || s.now.Add(wait).After(end) {
			s.now = end
			return
		}
		s.now = s.now.Add(wait)
	}
}

func (s *scene) look() time.Duration {
	for range 1000 {
		s.schedule.update(s.now, s.problems, s.ready, s.nodes)
		reason, wait := s.schedule.next(s.now)
		if reason == "" {
			return wait
		}
		s.written = append(s.written, fmt.Sprintf("%s: %s", reason, s.schedule.states[reason].note))
		s.at = append(s.at, s.now.Sub(s.begin))
		s.schedule.done(s.now, reason, s.err)
	}
	panic("it writes without end")
}

// wrote fails unless these Events were written since the last call.
func (s *scene) wrote(t *testing.T, want ...string) {
	t.Helper()
	same := len(s.written) == len(want)
	for i := range want {
		same = same && strings.HasPrefix(s.written[i], want[i])
	}
	if !same {
		t.Errorf("after %s it wrote %q at %v, want %q", s.now.Sub(s.begin), s.written, s.at, want)
	}
	s.written, s.at = nil, nil
}

func TestProblemIsWrittenOnceItLasts(t *testing.T) {
	s := newScene(0)
	s.is(problem.CNIConflict, "05-other")
	s.pass(settleTime - time.Millisecond)
	s.wrote(t)
	s.pass(time.Second)
	s.wrote(t, "CNIConflict: 05-other")
	s.pass(20 * time.Minute)
	s.wrote(t)
	s.is(problem.CNIConflict, "")
	s.pass(settleTime / 2)
	s.wrote(t)
	s.pass(settleTime)
	s.wrote(t, "PodNetworkReady: this node serves its pods again; over: CNIConflict")
	s.pass(5 * time.Hour)
	s.wrote(t)
}

func TestShortProblemIsNotWritten(t *testing.T) {
	s := newScene(0)
	for range 100 {
		s.is(problem.KernelFailed, "busy")
		s.pass(settleTime / 2)
		s.is(problem.KernelFailed, "")
		s.pass(2 * settleTime)
	}
	s.wrote(t)
	s.is(problem.PodCIDRMissing, "no podCIDR yet") // as on each node that joins
	s.pass(joinTime - time.Second)
	s.wrote(t)
	s.pass(2 * time.Second)
	s.wrote(t, "PodCIDRMissing")
}

// A problem that comes and goes faster than settleTime counts as one that lasts.
func TestFlickeringProblem(t *testing.T) {
	s := newScene(0)
	for range 700 {
		s.is(problem.KernelFailed, "busy")
		s.pass(time.Second)
		s.is(problem.KernelFailed, "")
		s.pass(2 * time.Second)
	}
	s.wrote(t, "KernelFailed", "KernelFailed")
}

func TestLastingProblemIsRepeated(t *testing.T) {
	s := newScene(0)
	s.is(problem.SettingMissing, "no br_netfilter")
	s.pass(3*repeatInterval + time.Minute)
	s.wrote(t, "SettingMissing", "SettingMissing", "SettingMissing", "SettingMissing")
}

// The Events about a problem that comes and goes, or whose note keeps changing, are limited.
func TestToggledProblemIsLimited(t *testing.T) {
	s := newScene(0)
	for i := range 60 {
		s.is(problem.RouteConflict, fmt.Sprint(i))
		s.pass(30 * time.Second)
		s.is(problem.RouteConflict, "")
		s.pass(30 * time.Second)
	}
	if n := len(s.written); n < 6 || n > 14 {
		t.Errorf("in an hour it wrote %d times: %q", n, s.written)
	}
	s = newScene(0)
	for i := range 3600 {
		s.is(problem.SubnetChanged, fmt.Sprintf("%d addresses are leased", i))
		s.pass(time.Second)
	}
	if n := len(s.written); n < 4 || n > 7 {
		t.Errorf("in an hour it wrote %d times: %q", n, s.written)
	}
}

// All Events of a node share a budget.
func TestBudget(t *testing.T) {
	s := newScene(0)
	s.problems = map[problem.Reason]string{}
	for _, r := range problem.Reasons() {
		s.problems[r] = "x"
	}
	s.ready = false
	s.pass(joinTime + time.Second)
	if n := len(s.written); n != eventBurst {
		t.Errorf("it wrote %d at once, want %d", n, eventBurst)
	}
	s.pass(time.Hour)
	if n, most := len(s.written), eventBurst+int(time.Hour/eventInterval)+1; n > most || n < len(s.problems) {
		t.Errorf("it wrote %d in an hour, want %d to %d", n, len(s.problems), most)
	}
}

// A thousand agents with the same problem spread their Events; in a small cluster hardly.
func TestEventsAreSpread(t *testing.T) {
	for nodes, want := range map[int]time.Duration{3: 36 * time.Millisecond, 1000: 12 * time.Second, 5000: time.Minute, 50000: time.Minute, 0: time.Minute} {
		s := newScene(1)
		s.nodes = nodes
		s.is(problem.CNIFailed, "x")
		s.pass(time.Hour)
		if s.at[0] != settleTime+want {
			t.Errorf("among %d Nodes the last one writes it after %s, want %s", nodes, s.at[0], settleTime+want)
		}
	}
}

// An Event that can't be written is retried after growing waits, and is up to date when it is written.
func TestFailedEventsAreNotQueued(t *testing.T) {
	s := newScene(0)
	s.err = errors.New("connection refused")
	s.is(problem.CNIFailed, "disk full")
	s.is(problem.CNIConflict, "05-other")
	s.pass(2 * time.Hour)
	if n := len(s.written); n < 10 || n > 30 {
		t.Errorf("in two hours it tried %d times", n)
	}
	s.written = nil
	s.is(problem.CNIFailed, "")
	s.pass(time.Minute)
	s.is(problem.CNIConflict, "06-other")
	s.err = nil
	s.pass(repeatInterval + time.Minute)
	s.wrote(t, "CNIConflict: 06-other")
	s.is(problem.CNIConflict, "")
	s.pass(repeatInterval)
	s.wrote(t, "PodNetworkReady: this node serves its pods again; over: CNIConflict")
}

// PodNetworkReady follows problems that were written, once the node is ready.
func TestReadyAgain(t *testing.T) {
	s := newScene(0)
	s.is(problem.CNIConflict, "05-other")
	s.is(problem.SettingMissing, "no br_netfilter")
	s.pass(time.Minute)
	s.is(problem.CNIConflict, "")
	s.pass(time.Minute)
	s.written = nil
	s.is(problem.KernelFailed, "x")
	s.is(problem.KernelFailed, "") // heals at once, untold
	s.pass(time.Minute)
	s.wrote(t)
	s.is(problem.SettingMissing, "")
	s.pass(time.Minute)
	s.wrote(t, "PodNetworkReady: this node serves its pods again; over: CNIConflict, SettingMissing")
	s.is(problem.CNIConflict, "05-other") // again, soon after
	s.pass(time.Minute)
	s.wrote(t)
	s.pass(changeInterval)
	s.wrote(t, "CNIConflict")
}

// A problem that is back before its end is written counts as one that lasts.
func TestProblemBackBeforeItsEndIsWritten(t *testing.T) {
	s := newScene(1)
	s.nodes = 5000
	s.is(problem.CNIConflict, "05-other")
	s.pass(2 * time.Minute)
	s.is(problem.CNIConflict, "")
	s.pass(30 * time.Second)
	s.is(problem.CNIConflict, "05-other")
	s.pass(15 * time.Minute)
	s.wrote(t, "CNIConflict")
}

func TestProblemsOfThisNodeOnly(t *testing.T) {
	long := strings.Repeat("é", 700)
	got := notesOf([]problem.Problem{
		{Subject: problem.Node("own"), Reason: problem.PodCIDRMissing, Message: "no podCIDR", BlocksReady: true},
		{Subject: problem.Node("peer"), Reason: problem.PodCIDRMissing, Message: "no podCIDR"},
		{Subject: problem.Node("peer"), Reason: problem.PodCIDRRefused, Message: "loopback"},
		{Subject: problem.Node("peer"), Reason: problem.RouteConflict, Message: "one"},
		{Subject: problem.Node("peer2"), Reason: problem.RouteConflict, Message: "another"},
		{Reason: problem.Contested, Message: "x\x1b[2Jy"},
		{Subject: problem.Node("peer"), Reason: problem.RouteFailed, Message: "invalid argument"},
		{Reason: problem.KernelFailed, Message: long, BlocksReady: true},
	}, "own")
	want := []problem.Reason{problem.Contested, problem.KernelFailed, problem.PodCIDRMissing, problem.RouteConflict}
	var reasons []problem.Reason
	for reason, note := range got {
		reasons = append(reasons, reason)
		if len(note) > noteLimit || !strings.HasSuffix(note, "Remediation: "+reason.Remediation()) {
			t.Errorf("%s: the note has %d bytes: %s", reason, len(note), note)
		}
	}
	if slices.Sort(reasons); !slices.Equal(reasons, want) {
		t.Errorf("the problems are %q, want %q", reasons, want)
	}
	if note, want := got[problem.PodCIDRMissing], "no podCIDR. Remediation: "+problem.PodCIDRMissing.Remediation(); note != want {
		t.Errorf("the note is %q, want %q", note, want)
	}
	if note := got[problem.RouteConflict]; !strings.HasPrefix(note, "one (and 1 more of this kind). ") {
		t.Errorf("the note is %q", note)
	}
	if note := got[problem.Contested]; strings.Contains(note, "\x1b") {
		t.Errorf("the note steers a terminal: %q", note)
	}
	if note := got[problem.KernelFailed]; strings.Contains(note, "\uFFFD") || !strings.Contains(note, "é...") {
		t.Errorf("the note is cut within a character: %q", note)
	}
}

// Problems that are due at the same time are written in order, at once until the budget is spent.
func TestOrderOfEvents(t *testing.T) {
	s := newScene(0)
	s.problems, s.ready = map[problem.Reason]string{}, false
	for _, r := range problem.Reasons() {
		if !slices.Contains(joining, r) {
			s.problems[r] = "x"
		}
	}
	s.pass(settleTime + eventInterval)
	if !slices.IsSorted(s.written) || len(s.written) != eventBurst+1 || s.at[eventBurst]-s.at[0] != eventInterval {
		t.Errorf("it wrote %q at %v", s.written, s.at)
	}

	s = newScene(0)
	over := []problem.Reason{problem.BridgeFailed, problem.CNIConflict, problem.CNIFailed, problem.KernelFailed, problem.SettingMissing, problem.TableFailed}
	for _, r := range over {
		s.is(r, "x")
	}
	s.pass(time.Minute)
	for _, r := range over {
		s.is(r, "")
	}
	s.written = nil
	s.pass(time.Minute)
	s.wrote(t, "PodNetworkReady: this node serves its pods again; over: BridgeFailed, CNIConflict, CNIFailed, KernelFailed, SettingMissing, TableFailed")
}

// A problem that is back after a long time is a new one, and so is its end.
func TestProblemAfterAPause(t *testing.T) {
	s := newScene(0)
	for range 2 {
		s.is(problem.CNIConflict, "05-other")
		s.pass(settleTime - time.Second)
		s.wrote(t)
		s.pass(2 * time.Second)
		s.wrote(t, "CNIConflict")
		s.is(problem.CNIConflict, "")
		s.pass(settleTime + time.Second)
		s.wrote(t, "PodNetworkReady")
		s.pass(changeInterval)
	}
}

// A changed note does not delay a retry.
func TestChangedNoteOfAFailedEvent(t *testing.T) {
	s := newScene(0)
	s.is(problem.CNIFailed, "a")
	s.pass(changeInterval + time.Minute)
	s.wrote(t, "CNIFailed: a")
	s.err = errors.New("connection refused")
	s.is(problem.CNIFailed, "b")
	s.err = nil
	s.wrote(t, "CNIFailed: b")
	s.is(problem.CNIFailed, "c")
	s.pass(minRetryDelay)
	s.wrote(t, "CNIFailed: c")
}
