package doctor

import (
	"cmp"
	"context"
	"iter"
	"net/netip"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/plainroute/plainroute/pkg/inspect"
	"github.com/plainroute/plainroute/pkg/status"
	"github.com/plainroute/plainroute/pkg/topology"
)

// A peer is another Node, and how this one reaches it.
type peer struct {
	name  string
	paths []podPath
	away  bool // the Node is not ready
}

// A podPath is a pod subnet of a peer, and the InternalIP by which it is reached, which is invalid
// if it is unknown.
type podPath struct {
	subnet netip.Prefix
	hop    netip.Addr
	added  int // bytes, to each packet, by a tunnel
}

// hops returns the InternalIPs by which the peer's pods are reached, usually one per family.
func (p peer) hops() []netip.Addr {
	var hops []netip.Addr
	for _, path := range p.paths {
		if path.hop.IsValid() && !slices.Contains(hops, path.hop) {
			hops = append(hops, path.hop)
		}
	}
	return hops
}

// peers returns the other Nodes that are machines, from the API server or else from the agent's
// report. They are reached by the InternalIPs to which the kernel's routes lead, if there are any.
func (t *Target) peers() []peer {
	routed := map[netip.Prefix]podPath{}
	for _, r := range t.State.Routes {
		if r.Type == topology.Unicast && r.Via.IsValid() {
			routed[r.Dst] = podPath{r.Dst, t.State.Endpoint(r), r.Overhead()}
		}
	}
	pathTo := func(subnet netip.Prefix, addr netip.Addr) podPath {
		return podPath{subnet, cmp.Or(routed[subnet].hop, addr), routed[subnet].added}
	}
	if t.Nodes == nil && t.Report != nil {
		return peersOfReport(t.Report.Peers, pathTo)
	}
	return mapped(t.otherMachines(), func(n *corev1.Node) peer {
		node := topology.NodeFrom(n)
		return peer{name: n.Name, away: !ready(n), paths: mapped(node.PodCIDRs, func(subnet netip.Prefix) podPath {
			i := slices.IndexFunc(node.Addrs, func(a netip.Addr) bool { return a.Is4() == subnet.Addr().Is4() })
			if i < 0 {
				return pathTo(subnet, netip.Addr{})
			}
			return pathTo(subnet, node.Addrs[i])
		})}
	})
}

func peersOfReport(rows []status.Peer, pathTo func(netip.Prefix, netip.Addr) podPath) []peer {
	var all []peer
	index := map[string]int{}
	for _, row := range rows {
		i, known := index[row.Node]
		if !known {
			i, all = len(all), append(all, peer{name: row.Node})
			index[row.Node] = i
		}
		all[i].paths = append(all[i].paths, pathTo(row.Subnet, cmp.Or(row.InternalIP, row.Via)))
	}
	return all
}

// machines returns the Nodes that are not virtual.
func (t *Target) machines() []*corev1.Node {
	var all []*corev1.Node
	for i := range t.Nodes {
		if !virtual(&t.Nodes[i]) {
			all = append(all, &t.Nodes[i])
		}
	}
	return all
}

func (t *Target) otherMachines() []*corev1.Node { return slices.DeleteFunc(t.machines(), t.isOwn) }

// isOwn reports whether a Node is our own, by its name or else by its addresses.
func (t *Target) isOwn(n *corev1.Node) bool {
	if t.Node != "" {
		return n.Name == t.Node
	}
	if t.Report != nil {
		return n.Name == t.Report.Node
	}
	return slices.ContainsFunc(topology.NodeFrom(n).Addrs, t.hasAddr)
}

func ready(n *corev1.Node) bool {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return true // unknown
}

// spread returns at most limit elements: the suspect ones first, then evenly spaced ones.
func spread[T any](all []T, limit int, suspect func(T) bool) []T {
	if len(all) <= limit {
		return all
	}
	var some, rest []T
	for _, one := range all {
		if suspect(one) {
			some = append(some, one)
		} else {
			rest = append(rest, one)
		}
	}
	left := max(0, limit-len(some))
	for i := range left {
		some = append(some, rest[i*len(rest)/left])
	}
	return some[:limit]
}

// Limits of the probes of peers, so that a sweep takes seconds among 5,000 Nodes too. Checks that
// read tables of the kernel or of the API server cover all peers.
const (
	maxPeers     = 64
	sweepTimeout = 2500 * time.Millisecond
	smallSize    = 64 // bytes, which fit any path
)

// A sweep is the results of probing some peers. Checks share one, because hosts limit answers.
type sweep struct {
	once    sync.Once
	peers   []peer
	size    int                // of the large packets, as pods send them
	added   map[netip.Addr]int // bytes, to packets to pods by that InternalIP, by a tunnel
	results map[probe]result
	err     error

	confirmMutex sync.Mutex // held while suspects are probed again, because answers are limited
}

// sweepPeers probes each peer of the sample with a small packet and with one as large as those that
// carry what pods send, and the gateways of its pod subnets with a small one. The large ones are
// sent first, so that rate limits drop answers to small ones instead.
func (t *Target) sweepPeers(ctx context.Context) *sweep {
	s := &t.sweep
	s.once.Do(func() {
		failed := t.failedNeighbors()
		s.peers = spread(t.peers(), maxPeers, func(one peer) bool {
			return slices.ContainsFunc(one.hops(), func(hop netip.Addr) bool { return failed[hop] })
		})
		s.size, s.added = t.podMTU(), map[netip.Addr]int{}
		var probes []probe
		for _, one := range s.peers {
			for _, path := range one.paths {
				s.added[path.hop] = max(s.added[path.hop], path.added)
			}
			for _, hop := range one.hops() {
				if s.size > smallSize {
					probes = append(probes, s.largeProbe(hop))
				}
				probes = append(probes, probe{hop, smallSize})
			}
			for _, path := range one.paths {
				probes = append(probes, probe{topology.Gateway(path.subnet), smallSize})
			}
		}
		s.results, s.err = sendProbes(ctx, probes, sweepTimeout)
	})
	return s
}

// hops returns the InternalIPs of all peers, each with its peer.
func (s *sweep) hops() iter.Seq2[peer, netip.Addr] {
	return func(yield func(peer, netip.Addr) bool) {
		for _, one := range s.peers {
			for _, hop := range one.hops() {
				if !yield(one, hop) {
					return
				}
			}
		}
	}
}

func (s *sweep) small(to netip.Addr) result { return s.results[probe{to, smallSize}] }

func (s *sweep) large(to netip.Addr) result { return s.results[s.largeProbe(to)] }

func (s *sweep) largeProbe(to netip.Addr) probe { return probe{to, s.size + s.added[to]} }

// alive reports whether a peer's host answered a probe of any size.
func (s *sweep) alive(hop netip.Addr) bool {
	small, large := s.small(hop), s.large(hop)
	return small.reached || small.sender == hop || large.reached || large.sender == hop
}

// podMTU returns the MTU of the pods, 0 if it is unknown.
func (t *Target) podMTU() int {
	switch {
	case t.State.CNI != nil && t.State.CNI.MTU > 0:
		return t.State.CNI.MTU
	case t.Report != nil:
		return t.Report.Host.MTU
	}
	return 0
}

// failedNeighbors returns the addresses that the kernel could not resolve lately.
func (t *Target) failedNeighbors() map[netip.Addr]bool {
	failed := map[netip.Addr]bool{}
	if t.Kernel == nil {
		return failed
	}
	table, _ := t.Kernel.Neighbors() // only a hint: without it the sample is different
	for _, n := range table {
		failed[n.Addr] = failed[n.Addr] || n.State == inspect.Failed
	}
	return failed
}
