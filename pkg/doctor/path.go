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

// pathMTU looks for peers that packets of the pods' MTU do not reach.
func pathMTU(ctx context.Context, t *Target) []problem.Problem {
	if found := t.unknownPeers(); found != nil {
		return found
	}
	r := t.sweepPeers(ctx)
	switch {
	case r.err != nil:
		return Skip(r.err.Error(), "")
	case r.size == 0:
		return Skip("the MTU of the pods is unknown: there is no CNI config of ours yet", "")
	case r.noneAnswered():
		return Skip("no peer answers datagrams, so the path MTU can't be measured", letPass)
	}
	found := append(t.exceedsLink(r), t.exceedsPath(r)...)
	return append(found, t.blackHoles(ctx, r)...)
}

const letPass = "let UDP to the port 9 and ICMP \"port unreachable\" pass between nodes, or run plainroute check"

// noneAnswered reports whether there are peers and none of them answered.
func (r *sweep) noneAnswered() bool {
	for _, a := range r.results {
		if a.reached || a.mtu > 0 {
			return false
		}
	}
	return len(r.peers) > 0
}

// exceedsLink reports next hops whose local link or route has a smaller MTU than the pods.
func (t *Target) exceedsLink(r *sweep) []problem.Problem {
	var names, shown []string
	for _, one := range r.peers {
		for _, hop := range one.hops {
			if a := r.results[probe{hop, r.size}]; a.local && a.mtu > 0 {
				names, shown = append(names, one.name), append(shown, fmt.Sprintf("the link towards %s has an MTU of %d", hop, a.mtu))
			} else if mtu := t.routeMTU(hop); mtu > 0 && mtu < r.size {
				names, shown = append(names, one.name), append(shown, fmt.Sprintf("ip route get %s: mtu %d", hop, mtu))
			}
		}
	}
	if len(names) == 0 {
		return nil
	}
	return []problem.Problem{Warn(fmt.Sprintf("pods may send packets of %d bytes, which exceeds the MTU of this node's own link or route: towards %s", r.size, named(names)), first(shown),
		"give the agent that --mtu (0: the uplink's), and recreate the pods of this node; or raise the link's MTU")}
}

func (t *Target) routeMTU(hop netip.Addr) int {
	if t.Kernel == nil {
		return 0
	}
	route, err := t.Kernel.RouteTo(hop)
	if err != nil {
		return 0
	}
	return route.MTU
}

// exceedsPath reports paths on which a router answers that packets are too large. Pods learn that,
// unless a firewall drops the ICMP messages.
func (t *Target) exceedsPath(r *sweep) []problem.Problem {
	var names, shown []string
	least := r.size
	for _, one := range r.peers {
		for _, hop := range one.hops {
			if a := r.results[probe{hop, r.size}]; !a.local && a.mtu > 0 {
				names, shown = append(names, one.name), append(shown, fmt.Sprintf("%s reports for the path to %s: mtu %d", a.sender, hop, a.mtu))
				least = min(least, a.mtu)
			}
		}
	}
	if len(names) == 0 {
		return nil
	}
	return []problem.Problem{Warn(fmt.Sprintf("the path's MTU is less than the %d bytes that pods send: to %s", r.size, named(names)), first(shown),
		fmt.Sprintf("raise the MTU on the way, or give all agents --mtu=%d and recreate the pods; until then, let no firewall drop ICMP \"fragmentation needed\" and ICMPv6 \"packet too big\"", least))}
}

// blackHoles finds paths that drop large packets silently: small ones are answered, large ones are
// not, without an ICMP error. Because the rate of answers is limited, suspects are probed again:
// only a small packet that is answered after a large one was not counts.
func (t *Target) blackHoles(ctx context.Context, r *sweep) []problem.Problem {
	suspects := map[netip.Addr]string{}
	for _, one := range r.peers {
		for _, hop := range one.hops {
			if r.results[probe{hop, smallSize}].reached && !r.results[probe{hop, r.size}].answered() {
				suspects[hop] = one.name
			}
		}
	}
	if len(suspects) == 0 {
		return nil
	}
	var probes []probe
	for hop := range suspects {
		probes = append(probes, probe{hop, r.size}, probe{hop, smallSize})
	}
	r.confirmMutex.Lock()
	results, err := sendProbes(ctx, probes, sweepTimeout)
	r.confirmMutex.Unlock()
	if err != nil {
		return Skip(err.Error(), "")
	}
	var names, shown []string
	for hop, name := range suspects {
		if results[probe{hop, smallSize}].reached && !results[probe{hop, r.size}].answered() {
			names, shown = append(names, name), append(shown, fmt.Sprintf("%s answers packets of %d bytes, and none of %d with DF set", hop, smallSize, r.size))
		}
	}
	if len(names) == 0 {
		return nil
	}
	slices.Sort(shown)
	return []problem.Problem{Fail(fmt.Sprintf("the path silently drops packets as large as pods send, %d bytes: to %s; connections open, and hang when data flows", r.size, named(names)), first(shown),
		"find the switch, tunnel or virtual port whose MTU is less, and raise it; or give all agents the --mtu that fits (ping -M do -s SIZE finds it), and recreate the pods")}
}

// first returns the first few pieces of evidence, and how many more there are.
func first(shown []string) string {
	const few = 3
	if len(shown) <= few {
		return strings.Join(shown, "; ")
	}
	return fmt.Sprintf("%s; and %d more", strings.Join(shown[:few], "; "), len(shown)-few)
}

// podPackets looks for peers that packets for their pods do not reach: by default, clouds and
// switches drop packets that are not addressed to the machine itself.
func podPackets(ctx context.Context, t *Target) []problem.Problem {
	if found := t.unknownPeers(); found != nil {
		return found
	}
	r := t.sweepPeers(ctx)
	if r.err != nil {
		return Skip(r.err.Error(), "")
	}
	suspects, alive := t.unarrived(r)
	if alive == 0 && len(r.peers) > 0 {
		return Skip("no peer answers datagrams by a route of ours, so it is unknown whether those for pods arrive", letPass)
	}
	suspects, err := t.confirmSuspects(ctx, r, suspects)
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
	return []problem.Problem{Warn("nodes answer, but packets to their pods' subnets do not arrive there, or the answers are lost: "+named(names), first(shown), t.cloudRemedy())}
}

// A suspect is a subnet whose gateway did not answer although its node did.
type suspect struct {
	name         string
	hop, gateway netip.Addr
	last         result
}

// unarrived returns the suspects, and the number of subnets whose nodes answered.
func (t *Target) unarrived(r *sweep) (suspects []suspect, alive int) {
	for _, one := range r.peers {
		for _, subnet := range one.subnets {
			hop, ok := one.hop(subnet)
			if !ok || !r.alive(hop) || !t.routed(subnet) {
				continue
			}
			alive++
			if a := r.results[probe{gateway(subnet), smallSize}]; !t.arrived(a) {
				suspects = append(suspects, suspect{one.name, hop, gateway(subnet), a})
			}
		}
	}
	return suspects, alive
}

// confirmSuspects probes suspects again after a pause: a host sends one answer a second, but one in
// two seconds for an unreachable route (ip_error of net/ipv4/route.c, icmpv4_xrlim_allow of
// net/ipv4/icmp.c). Only a node that answers again, after its gateway did not, counts.
func (t *Target) confirmSuspects(ctx context.Context, r *sweep, suspects []suspect) ([]suspect, error) {
	if len(suspects) == 0 {
		return nil, nil
	}
	r.confirmMutex.Lock()
	defer r.confirmMutex.Unlock()
	select {
	case <-ctx.Done():
	case <-time.After(sweepTimeout):
	}
	var gateways, nodes []probe
	for _, s := range suspects {
		gateways, nodes = append(gateways, probe{s.gateway, smallSize}), append(nodes, probe{s.hop, smallSize})
	}
	results, err := sendProbes(ctx, gateways, resendAfter)
	if err != nil {
		return nil, err
	}
	alive, err := sendProbes(ctx, nodes, resendAfter)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(suspects, func(s suspect) bool {
		return t.arrived(results[probe{s.gateway, smallSize}]) || !alive[probe{s.hop, smallSize}].answered()
	}), nil
}

// arrived reports whether a packet for a pod reached its node.
func (t *Target) arrived(a result) bool { return a.reached || t.sentByPeer(a) }

// sentByPeer reports whether an ICMP error came neither from this host nor from one of its routers,
// but from the peer's node, which has no such pod. It may send the error from any of its addresses.
func (t *Target) sentByPeer(a result) bool {
	if !a.sender.IsValid() || slices.ContainsFunc(t.Host.Routes, func(r topology.Route) bool { return r.Via == a.sender }) {
		return false
	}
	return !slices.ContainsFunc(t.Host.Links, func(l topology.Link) bool {
		return slices.ContainsFunc(l.Addrs, func(own netip.Prefix) bool { return own.Addr() == a.sender })
	})
}

func because(a result) string {
	if a.why == nil {
		return ""
	}
	return fmt.Sprintf(" (%s answers: %s)", a.sender, a.why)
}

// routed reports whether the kernel has a route of ours to the subnet and no foreign one that takes
// precedence. Otherwise a missing answer proves nothing about the network.
func (t *Target) routed(subnet netip.Prefix) bool {
	return slices.ContainsFunc(t.State.Routes, func(r topology.Route) bool {
		return r.Dst == subnet && r.Type == topology.Unicast && !t.takenByMain(r)
	})
}
