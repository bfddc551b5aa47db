package dataplane

import (
	"net/netip"
	"slices"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// An egress is where a foreign route sends packets: its gateway, if that address is in a range
// that matters, and its device's index.
type egress struct {
	via netip.Addr
	oif int
}

// take keeps a route if it is ours, matters to the cluster, or is the first by its egress.
func (f *routeFacts) take(m *message, links *linkFacts) {
	if _, ours := links.tunnels[m.oif]; ours && m.protocol == unix.RTPROT_KERNEL {
		return // it comes with an address of ours
	}
	resolved := m.resolve(f.objects)
	kept := f.concerns(m)
	foreign := &f.foreign
	if m.table != unix.RT_TABLE_MAIN {
		foreign = &f.beside
	}
	switch {
	case m.mine() && m.table != f.table:
		return // see findStrays
	case m.mine():
		r := m.route(links)
		f.ours = append(f.ours, &r)
	case kept || f.represents(m, m.hop, links):
		*foreign = append(*foreign, m.route(links))
	}
	for _, h := range m.others {
		if kept || f.represents(m, h, links) {
			*foreign = append(*foreign, m.other(h, links))
		}
	}
	f.unread = f.unread || f.objects == nil && (!resolved || kept && m.object != 0)
	if kept && m.object != 0 {
		f.named[m.object] = true
		for _, member := range f.objects[m.object].members {
			f.named[member] = true
		}
	}
}

// concerns reports whether a route can matter to a Node's address or a pod subnet: it overlaps
// one of the blocks, is a default route or nearly as wide, or comes with an address of this host.
func (f *routeFacts) concerns(m *message) bool {
	const wide = 8
	return f.blocks == nil || m.dst.Bits() < wide || m.protocol == unix.RTPROT_KERNEL || overlap(f.blocks, m.dst)
}

// overlap reports whether a prefix overlaps one of disjoint, sorted blocks: the last one that
// begins no later than the prefix, or the next one.
func overlap(blocks []netip.Prefix, p netip.Prefix) bool {
	i, _ := slices.BinarySearchFunc(blocks, p.Addr(), func(b netip.Prefix, a netip.Addr) int {
		if b.Addr().Compare(a) <= 0 {
			return -1
		}
		return 1
	})
	return i > 0 && blocks[i-1].Overlaps(p) || i < len(blocks) && blocks[i].Overlaps(p)
}

func (f *routeFacts) egress(h hop) egress {
	e := egress{oif: h.oif}
	if h.via.IsValid() && overlap(f.blocks, netip.PrefixFrom(h.via, h.via.BitLen())) {
		e.via = h.via
	}
	return e
}

// represents reports whether a route outside the blocks is the first by its egress. It is kept
// for all of them, because their gateway and device still matter.
func (f *routeFacts) represents(m *message, h hop, links *linkFacts) bool {
	e := f.egress(h)
	if _, known := f.representatives[e]; known || m.kind != unix.RTN_UNICAST {
		return false
	}
	f.representatives[e] = m.other(h, links)
	return true
}

// outside returns the destinations of our own routes that the blocks leave out.
func (f *routeFacts) outside() []netip.Prefix {
	var outside []netip.Prefix
	for _, r := range f.ours {
		if f.blocks != nil && !within(f.blocks, r.Dst) {
			outside = append(outside, r.Dst)
		}
	}
	return outside
}

// within reports whether one of disjoint, sorted blocks holds all of a prefix.
func within(blocks []netip.Prefix, p netip.Prefix) bool {
	i, found := slices.BinarySearchFunc(blocks, p.Addr(), func(b netip.Prefix, a netip.Addr) int { return b.Addr().Compare(a) })
	if found {
		i++
	}
	return i > 0 && blocks[i-1].Bits() <= p.Bits() && blocks[i-1].Contains(p.Addr())
}

// concern sets the ranges for which foreign routes are kept; nil: all. If the last read left out
// routes of these, the table is read again.
func (k *Kernel) concern(blocks []netip.Prefix) {
	k.concerns = blocks
	leftOut := func(p netip.Prefix) bool { return !within(k.routes.blocks, p) }
	if k.routes != nil && k.routes.blocks != nil && (blocks == nil || slices.ContainsFunc(blocks, leftOut)) {
		k.fresh.routes = false
	}
}

// learnRoute reports whether a notification differs from what is kept. A change of a route of ours
// changes what is kept, or makes our routes stale. A foreign route with our key, or a next hop that
// joined ours in IPv6, makes all routes stale.
func (k *Kernel) learnRoute(received netlink.Message) bool {
	m := &k.notified
	if !m.parse(received.Data) || m.table != k.table() && (m.mine() || m.table != unix.RT_TABLE_MAIN) {
		return false
	}
	if k.routes == nil {
		return true
	}
	m.resolve(k.routes.objects)
	deleted := received.Header.Type == unix.RTM_DELROUTE
	switch {
	case !m.mine():
		if !k.matters(m, deleted) {
			return false
		}
		k.fresh.routes = false
	case k.fresh.routes && k.fresh.ours && k.holds(m, deleted):
		return false
	case k.fresh.routes && k.fresh.ours && k.follow(m, received.Header, deleted):
	default:
		k.fresh.ours = false
		k.fresh.routes = k.fresh.routes && !m.shared()
	}
	return true
}

// learnObject reports whether a route that is kept refers to the next hop by its id.
func (k *Kernel) learnObject(m netlink.Message) bool {
	id, _ := parseObject(m.Data)
	if k.routes != nil && !k.routes.named[id] {
		return false
	}
	k.fresh.routes = false
	return true
}

// matters reports whether a notification of a foreign route makes the foreign routes stale: the
// route matters to the cluster, shows that a link receives router advertisements, is the first by
// an egress, or represents one. Each egress counts once between two audits, because a routing
// daemon may add and delete its only route many times a second.
func (k *Kernel) matters(m *message, deleted bool) bool {
	if k.routes.concerns(m) || !deleted && m.advertised() && !k.advertised[k.links.name(m.oif)] {
		return true
	}
	if m.kind != unix.RTN_UNICAST {
		return false
	}
	news := k.egressNews(m, m.hop, deleted)
	for _, h := range m.others {
		news = k.egressNews(m, h, deleted) || news
	}
	return news
}

func (k *Kernel) egressNews(m *message, h hop, deleted bool) bool {
	e := k.routes.egress(h)
	representative, known := k.routes.representatives[e]
	if k.seen[e] || known != deleted || deleted && representative != m.other(h, k.links) {
		return false
	}
	k.seen[e] = true
	return true
}
