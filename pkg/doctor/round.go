package doctor

import (
	"context"
	"net/netip"
	"sync"
	"time"

	"github.com/plainroute/plainroute/pkg/inspect"
	"github.com/plainroute/plainroute/pkg/problem"
)

// How many peers are probed, and for how long: the whole has to take seconds among
// 5,000 Nodes too. Faults that the tables of kernel and API server show are found
// among all.
const (
	sampled  = 64
	patience = 2500 * time.Millisecond
)

// small is the size of a packet that fits through anything.
const small = 64

// round is a visit to a sample of the peers, made once for all checks that need it:
// a host grants others few answers a second.
type round struct {
	once    sync.Once
	peers   []peer
	size    int // of the large packets, as pods send them
	answers map[question]answer
	err     error

	// confirming is held by who asks suspects again, for their answers are rationed.
	confirming sync.Mutex
}

// visit asks each sampled peer, by a small packet and by one as large as pods send,
// and its subnets' gateways by a small one. The large ones go first: where answers are
// rationed, it is not they that lack.
func (p *Patient) visit(ctx context.Context) *round {
	r := &p.round
	r.once.Do(func() {
		failed := p.failedNeighbours()
		r.peers = spread(p.peers(), sampled, func(one peer) bool {
			for _, hop := range one.hops {
				if failed[hop] {
					return true
				}
			}
			return false
		})
		r.size = p.podMTU()
		var questions []question
		for _, one := range r.peers {
			for _, hop := range one.hops {
				if r.size > small {
					questions = append(questions, question{hop, r.size})
				}
				questions = append(questions, question{hop, small})
			}
			for _, subnet := range one.subnets {
				questions = append(questions, question{gateway(subnet), small})
			}
		}
		r.answers, r.err = ask(ctx, questions, patience)
	})
	return r
}

// alive tells whether the host at a hop answered, whatever it was asked.
func (r *round) alive(hop netip.Addr) bool {
	for _, size := range []int{small, r.size} {
		if a := r.answers[question{hop, size}]; a.reached || a.refused == hop {
			return true
		}
	}
	return false
}

// podMTU is that of the pods; 0: not known.
func (p *Patient) podMTU() int {
	switch {
	case p.State.CNI != nil && p.State.CNI.MTU > 0:
		return p.State.CNI.MTU
	case p.Report != nil:
		return p.Report.Host.MTU
	}
	return 0
}

// failedNeighbours are those of whom the kernel knows already that they don't answer.
func (p *Patient) failedNeighbours() map[netip.Addr]bool {
	failed := map[netip.Addr]bool{}
	if p.Kernel == nil {
		return failed
	}
	table, _ := p.Kernel.Neighbors() // a hint; the check that needs it says what is wrong
	for _, n := range table {
		if n.State == inspect.Failed {
			failed[n.Addr] = true
		}
	}
	return failed
}

// noPeers says why there is nobody to look at; nil: there is somebody, or the cluster
// is of one Node.
func (p *Patient) noPeers() []problem.Problem {
	if p.Nodes != nil || p.Report != nil {
		return nil
	}
	return Skip("the other Nodes are not known: "+errorText(p.NodesErr)+"; "+errorText(p.ReportErr), "run it in the agent's pod, or give --kubeconfig FILE")
}

func errorText(err error) string {
	if err == nil {
		return "nobody was asked"
	}
	return err.Error()
}
