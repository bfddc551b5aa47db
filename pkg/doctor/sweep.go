package doctor

import (
	"context"
	"iter"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/plainroute/plainroute/pkg/inspect"
	"github.com/plainroute/plainroute/pkg/topology"
)

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
	size    int // of the large packets, as pods send them
	results map[probe]result
	err     error

	confirmMutex sync.Mutex // held while suspects are probed again, because answers are limited
}

// sweepPeers probes each peer of the sample with a small packet and with one as large as pods send,
// and the gateways of its pod subnets with a small one. The large ones are sent first, so that rate
// limits drop answers to small ones instead.
func (t *Target) sweepPeers(ctx context.Context) *sweep {
	s := &t.sweep
	s.once.Do(func() {
		failed := t.failedNeighbors()
		s.peers = spread(t.peers(), maxPeers, func(one peer) bool {
			return slices.ContainsFunc(one.hops(), func(hop netip.Addr) bool { return failed[hop] })
		})
		s.size = t.podMTU()
		var probes []probe
		for _, one := range s.peers {
			for _, hop := range one.hops() {
				if s.size > smallSize {
					probes = append(probes, probe{hop, s.size})
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

// hops returns all next hops, each with its peer.
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

func (s *sweep) large(to netip.Addr) result { return s.results[probe{to, s.size}] }

// alive reports whether the host at a next hop answered a probe of any size.
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
