package status

import (
	"net/netip"
	"sync"
	"time"

	"github.com/plainroute/plainroute/pkg/topology"
)

// maxKept is how many passes a Result has: those that led to the present state.
const maxKept = 32

// Recent returns the last passes, p first. It copies the list, because others read the old one.
func Recent(before []Pass, p Pass) []Pass {
	passes := make([]Pass, 1, min(len(before)+1, maxKept))
	passes[0] = p
	return append(passes, before[:cap(passes)-1]...)
}

// History records since when each peer has its state, and when its route was repaired. It has only
// those few that changed since the first pass.
type History struct {
	mu     sync.Mutex
	first  time.Time
	stamps map[row]stamp
}

// row is a pod subnet as a Node claims it.
type row struct {
	node   string
	subnet netip.Prefix
}

// stamp has nanoseconds since 1970, 0 for never: half the size of two time.Times.
type stamp struct{ since, repaired int64 }

// Touched collects what a pass may have changed of the peers.
type Touched struct {
	// Nodes have Problems that came or went.
	Nodes map[string]bool
	// Subnets have routes that were written; the value is true if that was only a repair.
	Subnets map[netip.Prefix]bool
}

// Repair adds routes that were restored.
func (t *Touched) Repair(subnets ...netip.Prefix) { t.subnets(subnets, true) }

// Route adds routes that were added, replaced or deleted.
func (t *Touched) Route(subnets ...netip.Prefix) { t.subnets(subnets, false) }

func (t *Touched) subnets(all []netip.Prefix, repaired bool) {
	if t.Subnets == nil && len(all) > 0 {
		t.Subnets = make(map[netip.Prefix]bool, len(all))
	}
	for _, p := range all {
		t.Subnets[p] = t.Subnets[p] || repaired
	}
}

// Node adds a Node whose Problems changed.
func (t *Touched) Node(name string) {
	if t.Nodes == nil {
		t.Nodes = map[string]bool{}
	}
	t.Nodes[name] = true
}

// Note records what changed from one Result to the next. It does nothing if nothing was touched.
func (h *History) Note(before, after *Result, t Touched) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if after.Known && h.first.IsZero() {
		h.first, h.stamps = after.Pass.Time, map[row]stamp{}
		return
	}
	if !after.Known || len(t.Nodes) == 0 && len(t.Subnets) == 0 {
		return
	}
	was, now := before.states(t), after.states(t)
	at := after.Pass.Time.UnixNano()
	for r, state := range now {
		s, changed := h.stamps[r]
		if old, known := was[r]; !known || old != state {
			if !known {
				s = stamp{} // a former Node had this name
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
	h.prune(after.Nodes)
}

// prune deletes the stamps of Nodes that have left, once there are many.
func (h *History) prune(nodes []*topology.Node) {
	const spare = 64
	if len(h.stamps) <= 2*len(nodes)+spare {
		return
	}
	kept := make(map[row]stamp, len(nodes))
	for _, n := range nodes {
		for _, subnet := range n.PodCIDRs {
			if s, ok := h.stamps[row{n.Name, subnet}]; ok {
				kept[row{n.Name, subnet}] = s
			}
		}
	}
	h.stamps = kept
}

// setTimes sets Since and Repaired of the peers.
func (h *History) setTimes(peers []Peer) {
	if h == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for i := range peers {
		p := &peers[i]
		p.Since = h.first
		s := h.stamps[row{p.Node, p.Subnet}]
		if s.since != 0 {
			p.Since = time.Unix(0, s.since).UTC()
		}
		if s.repaired != 0 {
			p.Repaired = time.Unix(0, s.repaired).UTC()
		}
	}
}
