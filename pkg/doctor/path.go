package doctor

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/topology"
)

// pathMTU looks whether packets as large as pods send them reach the peers.
func pathMTU(ctx context.Context, p *Patient) []problem.Problem {
	if found := p.noPeers(); found != nil {
		return found
	}
	r := p.visit(ctx)
	switch {
	case r.err != nil:
		return Skip(r.err.Error(), "")
	case r.size == 0:
		return Skip("the MTU of the pods is not known: there is no CNI config of ours yet", "")
	case r.mute():
		return Skip("no peer answers datagrams, so nobody can tell how large they may be", letPass)
	}
	found := append(p.tooLargeHere(r), p.narrow(r)...)
	return append(found, p.swallowed(ctx, r)...)
}

const letPass = "let UDP to the port 9 and ICMP \"port unreachable\" pass between nodes, or run plainroute check"

// mute tells that there are peers, and no answer of any kind came.
func (r *round) mute() bool {
	for _, a := range r.answers {
		if a.reached || a.mtu > 0 {
			return false
		}
	}
	return len(r.peers) > 0
}

// tooLargeHere compares the pods' MTU with what this node's own links and routes take.
func (p *Patient) tooLargeHere(r *round) []problem.Problem {
	var names, shown []string
	for _, one := range r.peers {
		for _, hop := range one.hops {
			if a := r.answers[question{hop, r.size}]; a.local && a.mtu > 0 {
				names, shown = append(names, one.name), append(shown, fmt.Sprintf("the link towards %s takes %d bytes", hop, a.mtu))
			} else if mtu := p.routeMTU(hop); mtu > 0 && mtu < r.size {
				names, shown = append(names, one.name), append(shown, fmt.Sprintf("ip route get %s: mtu %d", hop, mtu))
			}
		}
	}
	if len(names) == 0 {
		return nil
	}
	return []problem.Problem{Warn(fmt.Sprintf("pods may send packets of %d bytes, which is more than this node's own link or route takes: towards %s", r.size, named(names)), first(shown),
		"give the agent that --mtu (0: the uplink's), and make the pods of this node anew; or raise the link's MTU")}
}

func (p *Patient) routeMTU(hop netip.Addr) int {
	if p.Kernel == nil {
		return 0
	}
	way, err := p.Kernel.RouteTo(hop)
	if err != nil {
		return 0
	}
	return way.MTU
}

// narrow finds paths on which a router says that packets are too large: pods learn it,
// unless a firewall keeps that from them.
func (p *Patient) narrow(r *round) []problem.Problem {
	var names, shown []string
	least := r.size
	for _, one := range r.peers {
		for _, hop := range one.hops {
			if a := r.answers[question{hop, r.size}]; !a.local && a.mtu > 0 {
				names, shown = append(names, one.name), append(shown, fmt.Sprintf("%s says of the path to %s: mtu %d", a.refused, hop, a.mtu))
				least = min(least, a.mtu)
			}
		}
	}
	if len(names) == 0 {
		return nil
	}
	return []problem.Problem{Warn(fmt.Sprintf("the path takes less than the %d bytes that pods send: to %s", r.size, named(names)), first(shown),
		fmt.Sprintf("raise the MTU on the way, or give all agents --mtu=%d and make the pods anew; until then, let no firewall drop ICMP \"fragmentation needed\" and ICMPv6 \"packet too big\"", least))}
}

// swallowed finds black holes: small packets are answered, large ones are not, and
// nobody says why. Answers are rationed, so a suspect is asked again: only a small
// packet that is answered after a large one was not makes a case.
func (p *Patient) swallowed(ctx context.Context, r *round) []problem.Problem {
	suspects := map[netip.Addr]string{}
	for _, one := range r.peers {
		for _, hop := range one.hops {
			if r.answers[question{hop, small}].reached && !r.answers[question{hop, r.size}].came() {
				suspects[hop] = one.name
			}
		}
	}
	if len(suspects) == 0 {
		return nil
	}
	var questions []question
	for hop := range suspects {
		questions = append(questions, question{hop, r.size}, question{hop, small})
	}
	r.confirming.Lock()
	answers, err := ask(ctx, questions, patience)
	r.confirming.Unlock()
	if err != nil {
		return Skip(err.Error(), "")
	}
	var names, shown []string
	for hop, name := range suspects {
		if answers[question{hop, small}].reached && !answers[question{hop, r.size}].came() {
			names, shown = append(names, name), append(shown, fmt.Sprintf("%s answers packets of %d bytes, and none of %d with DF set", hop, small, r.size))
		}
	}
	if len(names) == 0 {
		return nil
	}
	slices.Sort(shown)
	return []problem.Problem{Fail(fmt.Sprintf("the path swallows packets as large as pods send, %d bytes, and nobody says so: to %s; connections open, and hang when data flows", r.size, named(names)), first(shown),
		"find the switch, tunnel or virtual port whose MTU is less, and raise it; or give all agents the --mtu that fits (ping -M do -s SIZE finds it), and make the pods anew")}
}

// first gives the first few of many pieces of evidence.
func first(shown []string) string {
	const few = 3
	if len(shown) <= few {
		return strings.Join(shown, "; ")
	}
	return fmt.Sprintf("%s; and %d more", strings.Join(shown[:few], "; "), len(shown)-few)
}

// podPackets looks whether packets for pods arrive at their nodes: clouds and switches
// drop what is not addressed to the machine itself, unless told otherwise.
func podPackets(ctx context.Context, p *Patient) []problem.Problem {
	if found := p.noPeers(); found != nil {
		return found
	}
	r := p.visit(ctx)
	if r.err != nil {
		return Skip(r.err.Error(), "")
	}
	suspects, alive := p.unarrived(r)
	if alive == 0 && len(r.peers) > 0 {
		return Skip("no peer answers datagrams by a route of ours, so nobody can tell whether those for pods arrive", letPass)
	}
	suspects, err := p.confirmed(ctx, r, suspects)
	if err != nil {
		return Skip(err.Error(), "")
	}
	if len(suspects) == 0 {
		return nil
	}
	var names, shown []string
	for _, s := range suspects {
		names, shown = append(names, s.name), append(shown, fmt.Sprintf("%s answers, %s behind it does not%s", s.hop, s.gateway, because(s.last)))
	}
	return []problem.Problem{Warn("nodes answer, and what is sent to their pods' subnets does not arrive there, or its answer does not come back: "+named(names), first(shown), p.cloudCure())}
}

// suspect is a subnet whose gateway was silent while its node answered.
type suspect struct {
	name         string
	hop, gateway netip.Addr
	last         answer
}

// unarrived lists the suspects, of so many subnets whose nodes answer.
func (p *Patient) unarrived(r *round) (suspects []suspect, alive int) {
	for _, one := range r.peers {
		for _, subnet := range one.subnets {
			hop, ok := one.hop(subnet)
			if !ok || !r.alive(hop) || !p.routed(subnet) {
				continue
			}
			alive++
			if a := r.answers[question{gateway(subnet), small}]; !p.arrived(a) {
				suspects = append(suspects, suspect{one.name, hop, gateway(subnet), a})
			}
		}
	}
	return suspects, alive
}

// confirmed asks suspects again, after a pause: a host grants an answer a second, but
// two of those for one that says that a route is unreachable (ip_error of
// net/ipv4/route.c, icmpv4_xrlim_allow of net/ipv4/icmp.c). Only a node that answers
// once more, after its gateway did not, makes a case.
func (p *Patient) confirmed(ctx context.Context, r *round, suspects []suspect) ([]suspect, error) {
	if len(suspects) == 0 {
		return nil, nil
	}
	r.confirming.Lock()
	defer r.confirming.Unlock()
	select {
	case <-ctx.Done():
	case <-time.After(patience):
	}
	var gateways, nodes []question
	for _, s := range suspects {
		gateways, nodes = append(gateways, question{s.gateway, small}), append(nodes, question{s.hop, small})
	}
	answers, err := ask(ctx, gateways, again)
	if err != nil {
		return nil, err
	}
	alive, err := ask(ctx, nodes, again)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(suspects, func(s suspect) bool {
		return p.arrived(answers[question{s.gateway, small}]) || !alive[question{s.hop, small}].came()
	}), nil
}

// arrived tells that a packet for a pod got to its node.
func (p *Patient) arrived(a answer) bool { return a.reached || p.fromBehind(a) }

// fromBehind tells that a packet was refused, and by somebody who is neither this host
// nor a router of it: by the node that it was for, which has no such pod. Of its
// addresses it may take any to say so.
func (p *Patient) fromBehind(a answer) bool {
	if !a.refused.IsValid() || slices.ContainsFunc(p.Host.Routes, func(r topology.Route) bool { return r.Via == a.refused }) {
		return false
	}
	return !slices.ContainsFunc(p.Host.Links, func(l topology.Link) bool {
		return slices.ContainsFunc(l.Addrs, func(own netip.Prefix) bool { return own.Addr() == a.refused })
	})
}

func because(a answer) string {
	if a.why == nil {
		return ""
	}
	return fmt.Sprintf(" (%s says: %s)", a.refused, a.why)
}

// routed tells whether a route of ours to the subnet is in the kernel, and no foreign one before it; else silence says nothing
// about the network.
func (p *Patient) routed(subnet netip.Prefix) bool {
	return slices.ContainsFunc(p.State.Routes, func(r topology.Route) bool {
		return r.Dst == subnet && r.Type == topology.Unicast && !p.takenByMain(r)
	})
}
