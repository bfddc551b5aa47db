package dataplane

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/plan"
)

// Many routes go to the kernel in one go, and each answer is told to its own.
func TestEachRouteGetsItsAnswer(t *testing.T) {
	m := newMachine(t)
	all := nodes(3*perSend + 7)
	m.settle(all[:1])
	c := m.diff(all)
	const bad = 3 // every third can't be, and one has no device
	refused := map[string]error{}
	for i := range c.Add {
		switch r := &c.Add[i]; {
		case i == perSend:
			r.Dev = "nowhere"
			refused[r.Dst.String()] = errNoDevice
		case i%bad == 0 && r.Via.Is4():
			r.Via = r.Dst.Addr() // nobody's neighbour
			refused[r.Dst.String()] = unix.ENETUNREACH
		}
	}
	err := m.Apply(context.Background(), c)
	told := 0
	for _, e := range err.(interface{ Unwrap() []error }).Unwrap() {
		told += m.tell(e, refused)
	}
	if told != len(refused) {
		t.Errorf("%d of %d refusals are told", told, len(refused))
	}
	if n, want := len(m.ours()), len(c.Add)+m.families()-len(refused); n != want {
		t.Errorf("%d routes of ours, want %d", n, want)
	}
	m.settle(all)
}

// tell counts the RouteErrors in an error that are as expected.
func (m *machine) tell(err error, want map[string]error) int {
	m.t.Helper()
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		n := 0
		for _, e := range joined.Unwrap() {
			n += m.tell(e, want)
		}
		return n
	}
	var refused *RouteError
	if !errors.As(err, &refused) || !errors.Is(err, want[refused.Route.Dst.String()]) {
		m.t.Errorf("not expected: %v", err)
		return 0
	}
	return 1
}

// A second answer is not mistaken for one that was lost.
func TestLostAnswers(t *testing.T) {
	m := newMachine(t)
	all := nodes(600)
	m.settle(all[:1])
	m.must(m.writer.SetReadBuffer(2048)) // holds a few answers of a hundred
	c := m.diff(all)
	if err := m.Apply(context.Background(), c); err == nil {
		t.Fatal("no answer was lost")
	}
	m.must(m.writer.SetReadBuffer(receiveBuffer))
	m.settle(all)
	if err := m.Apply(context.Background(), plan.Changes{Delete: c.Add}); err != nil {
		t.Error(err)
	}
}

// What is left of a batch must not be taken for answers to the next.
func TestEmptyWriter(t *testing.T) {
	m := newMachine(t)
	ask := netlink.Message{Header: netlink.Header{Type: unix.RTM_DELROUTE, Flags: netlink.Request | netlink.Acknowledge}, Data: make([]byte, unix.SizeofRtMsg)}
	_, err := m.writer.SendMessages([]netlink.Message{ask, ask, ask})
	m.must(err)
	m.must(m.emptyWriter())
	m.must(m.writer.SetReadDeadline(time.Now().Add(50 * time.Millisecond)))
	if _, err := m.writer.Receive(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the socket is not empty: %v", err)
	}
}
