package controllers

import (
	"errors"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/plainroute/plainroute/pkg/status"
	"github.com/plainroute/plainroute/pkg/topology"
)

// A Node in which any message is cut short is an error, and not a Node with fewer fields.
func TestWireNodeCutShort(t *testing.T) {
	field := func(number protowire.Number, value []byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(nil, number, protowire.BytesType), value)
	}
	cut := []byte{0x0a, 5, 'x'} // field 1 with five bytes, of which one is there
	for name, b := range map[string][]byte{
		"the Node": cut, "its metadata": field(1, cut), "its spec": field(2, cut), "its status": field(3, cut),
		"a label": field(1, field(11, cut)), "an annotation": field(1, field(12, cut)), "an address": field(3, field(5, cut)),
		"the time of its creation": field(1, field(8, []byte{0x08})), "the time of its deletion": field(1, field(9, []byte{0x08})),
	} {
		if err := new(wireNode).Unmarshal(b); err == nil {
			t.Errorf("%s is cut short, and there is no error", name)
		}
		if err := new(wireNodeList).Unmarshal(field(2, b)); err == nil {
			t.Errorf("%s is cut short in a list, and there is no error", name)
		}
	}
	for name, b := range map[string][]byte{"its metadata": field(1, cut), "a number": {0x09, 1}, "a length": {0x0a}} {
		if err := new(wireNodeList).Unmarshal(b); err == nil {
			t.Errorf("%s of a list is cut short, and there is no error", name)
		}
	}
	own := field(1, field(1, []byte("node1")))
	for name, b := range map[string][]byte{"a taint": field(2, field(5, cut)), "a condition": field(3, field(4, cut))} {
		if err := new(wireNode).unmarshal(append(own, b...), "node1"); err == nil {
			t.Errorf("%s of our own Node is cut short, and there is no error", name)
		}
		if err := new(wireNode).unmarshal(append(own, b...), "node2"); err != nil {
			t.Errorf("%s of another Node is not read: %v", name, err)
		}
	}
}

// An answer of the API server is the last sign of it, and an error is not.
func TestErrorIsNoSignOfTheServer(t *testing.T) {
	s, _ := newSource(t)
	s.failed(errors.New("connection refused"))
	if at := s.View().Heard; !at.IsZero() {
		t.Errorf("after an error the server was heard from at %s", at)
	}
	start := time.Now()
	s.failed(nil)
	if at := s.View().Heard; at.Before(start) {
		t.Errorf("after an answer the server was heard from at %s, want %s or later", at, start)
	}
}

// A comparison that failed, or that another list made void, confirms nothing and is tried again.
func TestFailedComparisonIsTriedAgain(t *testing.T) {
	s, _ := newSource(t)
	if s.compared(s.begin(), errors.New("connection refused")) || s.View().Doubt == nil || !s.View().Confirmed.IsZero() {
		t.Errorf("a failed comparison counts: doubt %v, confirmed at %s", s.View().Doubt, s.View().Confirmed)
	}
	begin := s.begin()
	if err := s.Replace(nil, "1"); err != nil {
		t.Fatal(err)
	}
	if s.compared(begin, nil) || !errors.Is(s.View().Doubt, errReplaced) {
		t.Errorf("the comparison of an earlier list counts: doubt %v", s.View().Doubt)
	}
	begin = s.begin()
	if !s.compared(begin, nil) || s.View().Doubt != nil || !s.View().Confirmed.Equal(begin.begin) {
		t.Errorf("a good comparison does not count: doubt %v, confirmed at %s", s.View().Doubt, s.View().Confirmed)
	}
}

// Nothing is kept of a Node that is deleted, also if it had no pod subnet.
func TestNothingIsKeptOfADeletedNode(t *testing.T) {
	s, _ := newSource(t)
	without := wire(newNode("node2", "192.168.1.12"))
	without.ResourceVersion = "5"
	if err := errors.Join(s.Add(wire(peer(3))), s.Add(without)); err != nil {
		t.Fatal(err)
	}
	if len(s.bare) != 1 || s.bare["node2"] != "5" {
		t.Errorf("Nodes without pod subnets are %v", s.bare)
	}
	if err := s.Update(wire(peer(2))); err != nil || len(s.bare) > 0 {
		t.Errorf("once they have some they are %v, %v", s.bare, err)
	}
	if err := errors.Join(s.Update(without), s.Delete(without), s.Delete(wire(peer(3)))); err != nil {
		t.Fatal(err)
	}
	if len(s.bare)+len(s.index)+len(s.nodes) > 0 {
		t.Errorf("left are %v, %v, %v", s.bare, s.index, s.nodes)
	}
}

// The Problem is there at the very end of the wait: a wait of 0 would bring no other look.
func TestUnreadConfigAtTheEndOfItsWait(t *testing.T) {
	clock := &stepClock{now: time.Unix(1e9, 0)}
	u := &unreadConfig{now: clock.read}
	written := &status.Result{Known: true, Desired: topology.State{CNI: &topology.CNI{Bridge: "plainroute0"}}}
	look := func() (int, time.Duration) {
		problems, wait := u.look(written, &standing{noNetwork: true}, "")
		return len(problems), wait
	}
	if n, wait := look(); n != 0 || wait != unreadAfter {
		t.Errorf("at first there are %d problems and a wait of %s", n, wait)
	}
	clock.step(unreadAfter)
	if n, wait := look(); n != 1 || wait != 0 {
		t.Errorf("at the end there are %d problems and a wait of %s", n, wait)
	}
}

// A Result starts with what the last pass found, and leads to the history of this agent.
func TestResultStartsWithTheLast(t *testing.T) {
	s, _ := newSource(t)
	board := &status.Board{}
	board.Publish(&status.Result{Known: true})
	r := &NodeReconciler{Version: "1", Board: board, Nodes: s}
	if got := r.begin().result; got.History != &r.history || !got.Known || got.Version != "1" {
		t.Errorf("got %+v", got)
	}
}
