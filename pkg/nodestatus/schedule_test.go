package nodestatus

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/plainroute/plainroute/pkg/topology"
)

// A scene runs a schedule with a clock of its own, and records the Events that are written.
type scene struct {
	schedule *schedule
	now      time.Time
	begin    time.Time
	faults   map[topology.Reason]string
	ready    bool
	nodes    int
	err      error // of all that is told
	told     []string
	at       []time.Duration
}

func newScene(random float64) *scene {
	begin := time.Unix(1e9, 0)
	return &scene{schedule: newSchedule(func() float64 { return random }), now: begin, begin: begin, ready: true, nodes: 3}
}

// is sets the note of a problem; "" ends it.
func (s *scene) is(reason topology.Reason, note string) {
	faults := map[topology.Reason]string{}
	for r, n := range s.faults {
		faults[r] = n
	}
	if faults[reason] = note; note == "" {
		delete(faults, reason)
	}
	s.faults, s.ready = faults, len(faults) == 0
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
		s.schedule.update(s.now, s.faults, s.ready, s.nodes)
		reason, wait := s.schedule.next(s.now)
		if reason == "" {
			return wait
		}
		s.told = append(s.told, fmt.Sprintf("%s: %s", reason, s.schedule.states[reason].note))
		s.at = append(s.at, s.now.Sub(s.begin))
		s.schedule.done(s.now, reason, s.err)
	}
	panic("it writes without end")
}

// tells fails unless these Events were written since the last call.
func (s *scene) tells(t *testing.T, want ...string) {
	t.Helper()
	same := len(s.told) == len(want)
	for i := range want {
		same = same && strings.HasPrefix(s.told[i], want[i])
	}
	if !same {
		t.Errorf("after %s it told %q at %v, want %q", s.now.Sub(s.begin), s.told, s.at, want)
	}
	s.told, s.at = nil, nil
}

func TestFaultIsToldOnceItLasts(t *testing.T) {
	s := newScene(0)
	s.is(topology.CNIConflict, "05-other")
	s.pass(settleTime - time.Millisecond)
	s.tells(t)
	s.pass(time.Second)
	s.tells(t, "CNIConflict: 05-other")
	s.pass(20 * time.Minute)
	s.tells(t)
	s.is(topology.CNIConflict, "")
	s.pass(settleTime / 2)
	s.tells(t)
	s.pass(settleTime)
	s.tells(t, "PodNetworkReady: this node's pods are served as they should be again; over: CNIConflict")
	s.pass(5 * time.Hour)
	s.tells(t)
}

func TestShortFaultIsNotTold(t *testing.T) {
	s := newScene(0)
	for range 100 {
		s.is(topology.KernelFailed, "busy")
		s.pass(settleTime / 2)
		s.is(topology.KernelFailed, "")
		s.pass(2 * settleTime)
	}
	s.tells(t)
	s.is(topology.PodCIDRMissing, "no podCIDR yet") // as on each node that joins
	s.pass(joinTime - time.Second)
	s.tells(t)
	s.pass(2 * time.Second)
	s.tells(t, "PodCIDRMissing")
}

// What comes and goes faster than settleTime is a fault that lasts.
func TestFlickeringFaultIsOneFault(t *testing.T) {
	s := newScene(0)
	for range 700 {
		s.is(topology.KernelFailed, "busy")
		s.pass(time.Second)
		s.is(topology.KernelFailed, "")
		s.pass(2 * time.Second)
	}
	s.tells(t, "KernelFailed", "KernelFailed")
}

func TestLastingFaultIsToldAgain(t *testing.T) {
	s := newScene(0)
	s.is(topology.SettingMissing, "no br_netfilter")
	s.pass(3*repeatInterval + time.Minute)
	s.tells(t, "SettingMissing", "SettingMissing", "SettingMissing", "SettingMissing")
}

// A fault that comes and goes, or whose words change all the time, is bounded.
func TestToggledFaultIsBounded(t *testing.T) {
	s := newScene(0)
	for i := range 60 {
		s.is(topology.RouteConflict, fmt.Sprint(i))
		s.pass(30 * time.Second)
		s.is(topology.RouteConflict, "")
		s.pass(30 * time.Second)
	}
	if n := len(s.told); n < 6 || n > 14 {
		t.Errorf("in an hour it told %d times: %q", n, s.told)
	}
	s = newScene(0)
	for i := range 3600 {
		s.is(topology.SubnetChanged, fmt.Sprintf("%d addresses are leased", i))
		s.pass(time.Second)
	}
	if n := len(s.told); n < 4 || n > 7 {
		t.Errorf("in an hour it told %d times: %q", n, s.told)
	}
}

// Whatever happens, a node has a budget.
func TestBudget(t *testing.T) {
	s := newScene(0)
	s.faults = map[topology.Reason]string{}
	for _, r := range topology.Reasons() {
		s.faults[r] = "x"
	}
	s.ready = false
	s.pass(joinTime + time.Second)
	if n := len(s.told); n != eventBurst {
		t.Errorf("it told %d at once, want %d", n, eventBurst)
	}
	s.pass(time.Hour)
	if n, most := len(s.told), eventBurst+int(time.Hour/eventInterval)+1; n > most || n < len(s.faults) {
		t.Errorf("it told %d in an hour, want %d to %d", n, len(s.faults), most)
	}
}

// A thousand agents that meet a fault at once spread what they tell, in a small cluster
// by next to nothing.
func TestAgentsDontSpeakAtOnce(t *testing.T) {
	for nodes, want := range map[int]time.Duration{3: 36 * time.Millisecond, 1000: 12 * time.Second, 5000: time.Minute, 50000: time.Minute, 0: time.Minute} {
		s := newScene(1)
		s.nodes = nodes
		s.is(topology.CNIFailed, "x")
		s.pass(time.Hour)
		if s.at[0] != settleTime+want {
			t.Errorf("among %d Nodes the last one tells it after %s, want %s", nodes, s.at[0], settleTime+want)
		}
	}
}

// What can't be told is tried ever more seldom, and what is told in the end is true then.
func TestNotToldIsNotQueued(t *testing.T) {
	s := newScene(0)
	s.err = errors.New("connection refused")
	s.is(topology.CNIFailed, "disk full")
	s.is(topology.CNIConflict, "05-other")
	s.pass(2 * time.Hour)
	if n := len(s.told); n < 10 || n > 30 {
		t.Errorf("in two hours it tried %d times", n)
	}
	s.told = nil
	s.is(topology.CNIFailed, "")
	s.pass(time.Minute)
	s.is(topology.CNIConflict, "06-other")
	s.err = nil
	s.pass(repeatInterval + time.Minute)
	s.tells(t, "CNIConflict: 06-other")
	s.is(topology.CNIConflict, "")
	s.pass(repeatInterval)
	s.tells(t, "PodNetworkReady: this node's pods are served as they should be again; over: CNIConflict")
}

// That it is well again is told of faults that were told, once none keeps the node from
// being ready.
func TestReadyAgain(t *testing.T) {
	s := newScene(0)
	s.is(topology.CNIConflict, "05-other")
	s.is(topology.SettingMissing, "no br_netfilter")
	s.pass(time.Minute)
	s.is(topology.CNIConflict, "")
	s.pass(time.Minute)
	s.told = nil
	s.is(topology.KernelFailed, "x")
	s.is(topology.KernelFailed, "") // heals at once, untold
	s.pass(time.Minute)
	s.tells(t)
	s.is(topology.SettingMissing, "")
	s.pass(time.Minute)
	s.tells(t, "PodNetworkReady: this node's pods are served as they should be again; over: CNIConflict, SettingMissing")
	s.is(topology.CNIConflict, "05-other") // again, soon after
	s.pass(time.Minute)
	s.tells(t)
	s.pass(changeInterval)
	s.tells(t, "CNIConflict")
}

// A fault that is back before it was told to be over was never away.
func TestBackBeforeToldOver(t *testing.T) {
	s := newScene(1)
	s.nodes = 5000
	s.is(topology.CNIConflict, "05-other")
	s.pass(2 * time.Minute)
	s.is(topology.CNIConflict, "")
	s.pass(30 * time.Second)
	s.is(topology.CNIConflict, "05-other")
	s.pass(15 * time.Minute)
	s.tells(t, "CNIConflict")
}

func TestFaultsOfThisNodeOnly(t *testing.T) {
	long := strings.Repeat("é", 700)
	got := notesOf([]topology.Problem{
		{Node: "own", Reason: topology.PodCIDRMissing, Detail: "no podCIDR", Own: true},
		{Node: "peer", Reason: topology.PodCIDRMissing, Detail: "no podCIDR"},
		{Node: "peer", Reason: topology.PodCIDRRefused, Detail: "loopback"},
		{Node: "peer", Reason: topology.RouteConflict, Detail: "one"},
		{Node: "peer2", Reason: topology.RouteConflict, Detail: "another"},
		{Reason: topology.Contested, Detail: "x\x1b[2Jy"},
		{Node: "peer", Reason: topology.RouteFailed, Detail: "invalid argument"},
		{Reason: topology.KernelFailed, Detail: long, Own: true},
	}, "own")
	want := []topology.Reason{topology.Contested, topology.KernelFailed, topology.PodCIDRMissing, topology.RouteConflict}
	var reasons []topology.Reason
	for reason, note := range got {
		reasons = append(reasons, reason)
		if len(note) > noteLimit || !strings.HasSuffix(note, "What to do: "+reason.Advice()) {
			t.Errorf("%s: the note has %d bytes: %s", reason, len(note), note)
		}
	}
	if slices.Sort(reasons); !slices.Equal(reasons, want) {
		t.Errorf("the faults are %q, want %q", reasons, want)
	}
	if note, want := got[topology.PodCIDRMissing], "no podCIDR. What to do: "+topology.PodCIDRMissing.Advice(); note != want {
		t.Errorf("the note is %q, want %q", note, want)
	}
	if note := got[topology.RouteConflict]; !strings.HasPrefix(note, "one (and 1 more of this kind). ") {
		t.Errorf("the note is %q", note)
	}
	if note := got[topology.Contested]; strings.Contains(note, "\x1b") {
		t.Errorf("the note steers a terminal: %q", note)
	}
	if note := got[topology.KernelFailed]; strings.Contains(note, "\uFFFD") || !strings.Contains(note, "é...") {
		t.Errorf("the note is cut within a character: %q", note)
	}
}

// A note takes all the room that there is, and no character is cut in two.
func TestNotesAreCutBetweenCharacters(t *testing.T) {
	const advice = "do it"
	room := noteLimit - len(". What to do: "+advice)
	for detail, want := range map[string]int{
		strings.Repeat("x", room): noteLimit, strings.Repeat("x", room+1): noteLimit,
		strings.Repeat("é", room): noteLimit - (room-3)%2, "x" + strings.Repeat("é", room): noteLimit - (room-4)%2,
	} {
		note := noteOf(detail, 0, advice)
		if cut := strings.Contains(note, "..."); len(note) != want || !utf8.ValidString(note) || cut != (len(detail) > room) {
			t.Errorf("of %d bytes the note has %d, want %d: %q", len(detail), len(note), want, note)
		}
	}
}

// Faults whose turn has come together are told in order, each at once until the budget is spent, and so is what is over.
func TestOrderOfWhatIsTold(t *testing.T) {
	s := newScene(0)
	s.faults, s.ready = map[topology.Reason]string{}, false
	for _, r := range topology.Reasons() {
		if !slices.Contains(joining, r) {
			s.faults[r] = "x"
		}
	}
	s.pass(settleTime + eventInterval)
	if !slices.IsSorted(s.told) || len(s.told) != eventBurst+1 || s.at[eventBurst]-s.at[0] != eventInterval {
		t.Errorf("it told %q at %v", s.told, s.at)
	}

	s = newScene(0)
	over := []topology.Reason{topology.BridgeFailed, topology.CNIConflict, topology.CNIFailed, topology.KernelFailed, topology.SettingMissing, topology.TableFailed}
	for _, r := range over {
		s.is(r, "x")
	}
	s.pass(time.Minute)
	for _, r := range over {
		s.is(r, "")
	}
	s.told = nil
	s.pass(time.Minute)
	s.tells(t, "PodNetworkReady: this node's pods are served as they should be again; over: BridgeFailed, CNIConflict, CNIFailed, KernelFailed, SettingMissing, TableFailed")
}

// A fault that was over for long is a new one, which may heal by itself, and so is its end.
func TestFaultAfterAPause(t *testing.T) {
	s := newScene(0)
	for range 2 {
		s.is(topology.CNIConflict, "05-other")
		s.pass(settleTime - time.Second)
		s.tells(t)
		s.pass(2 * time.Second)
		s.tells(t, "CNIConflict")
		s.is(topology.CNIConflict, "")
		s.pass(settleTime + time.Second)
		s.tells(t, "PodNetworkReady")
		s.pass(changeInterval)
	}
}

// Other words of a fault don't put off what is to be tried again anyway.
func TestOtherWordsOfWhatWasNotTold(t *testing.T) {
	s := newScene(0)
	s.is(topology.CNIFailed, "a")
	s.pass(changeInterval + time.Minute)
	s.tells(t, "CNIFailed: a")
	s.err = errors.New("connection refused")
	s.is(topology.CNIFailed, "b")
	s.err = nil
	s.tells(t, "CNIFailed: b")
	s.is(topology.CNIFailed, "c")
	s.pass(minRetryDelay)
	s.tells(t, "CNIFailed: c")
}
