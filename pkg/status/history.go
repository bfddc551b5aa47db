package status

import (
	"net/netip"
	"sync"
	"time"

	"github.com/plainroute/plainroute/pkg/topology"
)

// keptPasses is how many passes a Result tells of: at 3 a.m., those that led to
// where we are.
const keptPasses = 32

// Recent returns the passes that end with p, the newest first. The list before stays
// as it is, for others read it.
func Recent(before []Pass, p Pass) []Pass {
	passes := make([]Pass, 1, min(len(before)+1, keptPasses))
	passes[0] = p
	return append(passes, before[:cap(passes)-1]...)
}

// History remembers since when peers are as they are. It holds those that changed
// only, for they are few: all others have been so since the first pass.
type History struct {
	mu     sync.Mutex
	first  time.Time
	stamps map[row]stamp
}

// A row is a pod subnet as a Node claims it.
type row struct {
	node   string
	subnet netip.Prefix
}

// A stamp has nanoseconds since 1970, 0 for never: half of what a time.Time takes.
type stamp struct{ since, repaired int64 }

// Touched is what of the peers a pass may have changed.
type Touched struct {
	// Nodes are those whose Problems came or went.
	Nodes map[string]bool
	// Subnets are those whose routes were written, with true where that only put one
	// back.
	Subnets map[netip.Prefix]bool
}

// Repair notes routes that were put back.
func (t *Touched) Repair(subnets ...netip.Prefix) { t.subnets(subnets, true) }

// Route notes routes that were made, replaced or deleted.
func (t *Touched) Route(subnets ...netip.Prefix) { t.subnets(subnets, false) }

func (t *Touched) subnets(all []netip.Prefix, repaired bool) {
	if t.Subnets == nil && len(all) > 0 {
		t.Subnets = make(map[netip.Prefix]bool, len(all))
	}
	for _, p := range all {
		t.Subnets[p] = t.Subnets[p] || repaired
	}
}

// Node notes a Node of which something else is said now.
func (t *Touched) Node(name string) {
	if t.Nodes == nil {
		t.Nodes = map[string]bool{}
	}
	t.Nodes[name] = true
}

func (t *Touched) empty() bool { return len(t.Nodes) == 0 && len(t.Subnets) == 0 }

// Note remembers what changed from one Result to the next. It costs nothing where
// nothing was touched.
func (h *History) Note(before, after *Result, t Touched) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case !after.Known:
		return
	case h.first.IsZero():
		h.first, h.stamps = after.Pass.Time, map[row]stamp{}
		return
	case t.empty():
		return
	}
	was, now := before.states(t), after.states(t)
	at := after.Pass.Time.UnixNano()
	for r, state := range now {
		s, changed := h.stamps[r]
		if old, known := was[r]; !known || old != state {
			if !known {
				s = stamp{} // of a Node of this name that was there before
			}
			s.since, changed = at, true
		}
		if t.Subnets[r.subnet] && state != Refused && state != OffLink {
			s.repaired, changed = at, true
		}
		if changed {
			h.stamps[r] = s
		}
	}
	h.sweep(after.Nodes)
}

// sweep forgets Nodes that have left, now and then.
func (h *History) sweep(nodes []*topology.Node) {
	const spare = 64
	if len(h.stamps) <= 2*len(nodes)+spare {
		return
	}
	kept := make(map[row]stamp, len(nodes))
	for _, n := range nodes {
		for _, subnet := range n.PodCIDRs {
			r := row{n.Name, subnet}
			if s, ok := h.stamps[r]; ok {
				kept[r] = s
			}
		}
	}
	h.stamps = kept
}

// date says since when the peers are as they are, and when they were repaired.
func (h *History) date(peers []Peer) {
	if h == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for i := range peers {
		p := &peers[i]
		p.Since = h.first
		s, ok := h.stamps[row{p.Node, p.Subnet}]
		if ok && s.since != 0 {
			p.Since = time.Unix(0, s.since).UTC()
		}
		if s.repaired != 0 {
			p.Repaired = time.Unix(0, s.repaired).UTC()
		}
	}
}
