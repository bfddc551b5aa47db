package doctor

import (
	"context"
	"net/netip"
	"sync"
	"time"

	"github.com/plainroute/plainroute/pkg/inspect"
	"github.com/plainroute/plainroute/pkg/problem"
)

// Limits of the probes of peers, so that a sweep takes seconds among 5,000 Nodes too. Checks that
// read tables of the kernel or of the API server cover all peers.
const (
	maxPeers     = 64
	sweepTimeout = 2500 * time.Millisecond
)

// smallSize is a packet size that fits any path, in bytes.
const smallSize = 64

// A sweep is the results of probing a sample of the peers. All checks share one, because a host
// limits the rate at which it answers.
type sweep struct {
	once    sync.Once
	peers   []peer
	size    int // of the large packets, as pods send them
	results map[probe]result
	err     error

	// confirmMutex is held while suspects are probed again, because the rate of the answers is
	// limited.
	confirmMutex sync.Mutex
}

// sweepPeers probes each peer of the sample with a small packet and with one as large as pods send,
// and the gateways of its pod subnets with a small one. The large ones are sent first, so that rate
// limits drop answers to small ones instead.
func (t *Target) sweepPeers(ctx context.Context) *sweep {
	r := &t.sweep
	r.once.Do(func() {
		failed := t.failedNeighbors()
		r.peers = spread(t.peers(), maxPeers, func(one peer) bool {
			for _, hop := range one.hops {
				if failed[hop] {
					return true
				}
			}
			return false
		})
		r.size = t.podMTU()
		var probes []probe
		for _, one := range r.peers {
			for _, hop := range one.hops {
				if r.size > smallSize {
					probes = append(probes, probe{hop, r.size})
				}
				probes = append(probes, probe{hop, smallSize})
			}
			for _, subnet := range one.subnets {
				probes = append(probes, probe{gateway(subnet), smallSize})
			}
		}
		r.results, r.err = sendProbes(ctx, probes, sweepTimeout)
	})
	return r
}

// alive reports whether the host at a next hop answered a probe of any size.
func (r *sweep) alive(hop netip.Addr) bool {
	for _, size := range []int{smallSize, r.size} {
		if a := r.results[probe{hop, size}]; a.reached || a.sender == hop {
			return true
		}
	}
	return false
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
		if n.State == inspect.Failed {
			failed[n.Addr] = true
		}
	}
	return failed
}

// unknownPeers returns a skip if neither the Nodes nor the agent's report are available.
func (t *Target) unknownPeers() []problem.Problem {
	if t.Nodes != nil || t.Report != nil {
		return nil
	}
	return Skip("the other Nodes are not known: "+errorText(t.NodesErr)+"; "+errorText(t.ReportErr), "run it in the agent's pod, or give --kubeconfig FILE")
}

func errorText(err error) string {
	if err == nil {
		return "not requested"
	}
	return err.Error()
}
