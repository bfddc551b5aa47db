package nodes

import (
	"errors"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/plainroute/plainroute/test/apiserver"
)

// A Node with a message that is cut short is an error, and not a Node with fewer fields.
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

// An answer counts as contact with the API server, and an error does not.
func TestErrorIsNotContact(t *testing.T) {
	s, _ := newSource(t)
	s.recordError(errors.New("connection refused"))
	if at := s.View().LastContact; !at.IsZero() {
		t.Errorf("after an error the server was heard from at %s", at)
	}
	start := time.Now()
	s.recordError(nil)
	if at := s.View().LastContact; at.Before(start) {
		t.Errorf("after an answer the server was heard from at %s, want %s or later", at, start)
	}
}

// A comparison that failed, or during which another list arrived, does not count.
func TestFailedComparison(t *testing.T) {
	s, _ := newSource(t)
	if s.endComparison(s.beginComparison(), errors.New("connection refused")) || s.View().ConfirmErr == nil || !s.View().Confirmed.IsZero() {
		t.Errorf("a failed comparison counts: error %v, confirmed at %s", s.View().ConfirmErr, s.View().Confirmed)
	}
	begin := s.beginComparison()
	if err := s.Replace(nil, "1"); err != nil {
		t.Fatal(err)
	}
	if s.endComparison(begin, nil) || !errors.Is(s.View().ConfirmErr, errReplaced) {
		t.Errorf("the comparison of an earlier list counts: error %v", s.View().ConfirmErr)
	}
	begin = s.beginComparison()
	if !s.endComparison(begin, nil) || s.View().ConfirmErr != nil || !s.View().Confirmed.Equal(begin.begin) {
		t.Errorf("a good comparison does not count: error %v, confirmed at %s", s.View().ConfirmErr, s.View().Confirmed)
	}
}

// A deleted Node leaves nothing behind, also if it had no pod subnet.
func TestDeletedNodeLeavesNothing(t *testing.T) {
	s, _ := newSource(t)
	without := wire(apiserver.NewNode("node2", "192.168.1.12"))
	without.ResourceVersion = "5"
	if err := errors.Join(s.Add(wire(apiserver.Peer(3))), s.Add(without)); err != nil {
		t.Fatal(err)
	}
	if len(s.bare) != 1 || s.bare["node2"] != "5" {
		t.Errorf("Nodes without pod subnets are %v", s.bare)
	}
	if err := s.Update(wire(apiserver.Peer(2))); err != nil || len(s.bare) > 0 {
		t.Errorf("once they have some they are %v, %v", s.bare, err)
	}
	if err := errors.Join(s.Update(without), s.Delete(without), s.Delete(wire(apiserver.Peer(3)))); err != nil {
		t.Fatal(err)
	}
	if len(s.bare)+len(s.index)+len(s.view.Nodes) > 0 {
		t.Errorf("left are %v, %v, %v", s.bare, s.index, s.view.Nodes)
	}
}
