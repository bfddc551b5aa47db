package doctor

import (
	"context"
	"net/netip"
	"slices"
	"strings"

	"github.com/plainroute/plainroute/pkg/inspect"
	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/topology"
)

// forwardPolicy sends the packets that pods live by, in thought, through each base chain
// that forwarded packets pass: what one chain drops, an accept in another, or of ours, does not save.
func forwardPolicy(_ context.Context, p *Patient) []problem.Problem {
	if p.Kernel == nil {
		return Skip("the kernel can't be looked at", "")
	}
	inside, outside := p.forwarded(), p.outside()
	packets := slices.Concat(inside, outside)
	chains, err := p.Kernel.ForwardChains(packets)
	if err == nil {
		var legacy []inspect.Chain
		legacy, err = p.Kernel.LegacyForwardChains(packets)
		chains = append(chains, legacy...)
	}
	if err != nil {
		return Skip(err.Error(), "run it with CAP_NET_ADMIN")
	}
	var found []problem.Problem
	for _, c := range chains {
		if f, bad := p.judge(c, inside); bad {
			found = append(found, f)
		} else if f, bad := p.judgeOutside(c, outside, c.Outcomes[len(inside):]); bad {
			found = append(found, f)
		}
	}
	return found
}

// lost reports whether a packet is dropped for certain.
func lost(f inspect.Outcome) bool { return f.Dropped && !f.Accepted }

// judge tells the worst that a chain does to any of the packets within the cluster.
func (p *Patient) judge(c inspect.Chain, packets []inspect.Packet) (problem.Problem, bool) {
	outcomes := c.Outcomes[:len(packets)]
	cure := "accept what comes from and goes to the pods there, before it drops: " + acceptRules(c, p.Subnets()) +
		"; or have the firewall plugin accept what pods begin, and one rule more what others begin (--firewall-plugin, docs/install.md)"
	if i := slices.IndexFunc(outcomes, lost); i >= 0 {
		fault := "a firewall drops packets of pods"
		if !slices.ContainsFunc(c.Outcomes, func(f inspect.Outcome) bool { return !lost(f) }) {
			fault = "a firewall drops all forwarded packets, so pods reach nobody beyond this node"
		}
		return Fail(fault, c.String()+": "+outcomes[i].DroppedBy+" drops what goes "+packets[i].String(), cure), true
	}
	for i, f := range outcomes {
		// Elsewhere rules are about what nobody can tell of here, such as the mark of a packet or the way back.
		if !f.Dropped || vague(packets[i]) || c.Hook != inspect.HookForward {
			continue
		}
		evidence := c.String() + ": " + f.DroppedBy + " drops what goes " + packets[i].String() + ", or does not"
		if f.UncertainRule != f.DroppedBy {
			evidence += ": that hangs on " + f.UncertainRule
		}
		return Warn("a firewall may drop packets of pods: it depends on a rule of which nobody can tell whether it fits them", evidence, cure), true
	}
	return problem.Problem{}, false
}

// judgeOutside tells what a chain drops for certain of what pods and the world beyond the cluster send
// each other. Somebody may want that.
func (p *Patient) judgeOutside(c inspect.Chain, packets []inspect.Packet, outcomes []inspect.Outcome) (problem.Problem, bool) {
	i := slices.IndexFunc(outcomes, lost)
	if i < 0 {
		return problem.Problem{}, false
	}
	return Warn("a firewall drops packets between pods and the world beyond the cluster", c.String()+": "+outcomes[i].DroppedBy+" drops what goes "+packets[i].String(),
		"if pods are not meant to be alone, accept what comes from and goes to them there, before it drops: "+acceptRules(c, p.Subnets())), true
}

// vague tells that an end of a packet is not known. Every rule about addresses fits some such packets, as kube-proxy's about those
// of Services, and that says nothing.
func vague(p inspect.Packet) bool { return p.From.Bits() == 0 || p.To.Bits() == 0 }

// manyPods are as many as are looked at one by one: rules may be made for each.
const manyPods = 64

// pods are addresses of pods here, so many at most; where no pod is known, all of the subnet.
func (p *Patient) pods() []netip.Prefix {
	var pods, all []netip.Prefix
	leases, _ := p.leasesHeld() // the check leases tells why they can't be read
	for _, l := range leases {
		if within(p.ownSubnets(), l.addr) && len(pods) < manyPods {
			pods = append(pods, single(l.addr))
		}
	}
	for _, s := range p.ownSubnets() {
		if !slices.ContainsFunc(pods, func(pod netip.Prefix) bool { return s.Contains(pod.Addr()) }) {
			all = append(all, s)
		}
	}
	if all = append(all, pods...); len(all) == 0 {
		all = []netip.Prefix{anywhere(true)}
	}
	return all
}

// forwarded are the packets that a cluster lives by: between a pod here and a peer's pod, the peer
// itself (its host-network pods, its kubelet, the API server, node ports), and another pod here
// (bridge-nf-call, Services), begun by either, and the answers; by TCP and, as to a DNS server, by UDP.
func (p *Patient) forwarded() []inspect.Packet {
	var packets []inspect.Packet
	between := func(pod netip.Prefix, far netip.Prefix, dev string) {
		for _, answer := range []bool{false, true} {
			packets = append(packets, inspect.Packet{In: p.Bridge, Out: dev, From: pod, To: far, Reply: answer},
				inspect.Packet{In: dev, Out: p.Bridge, From: far, To: pod, Reply: answer})
		}
	}
	for _, pod := range p.pods() {
		peer, hop, uplink := p.somePeer(pod.Addr().Is4())
		between(pod, peer, uplink)
		if hop.IsValid() {
			between(pod, single(hop), uplink)
		}
		for _, s := range p.ownSubnets() {
			if s.Contains(pod.Addr()) {
				between(pod, s, p.Bridge)
			}
		}
	}
	return append(packets, datagrams(packets)...)
}

// datagrams are packets of UDP between the same ends.
func datagrams(packets []inspect.Packet) []inspect.Packet {
	all := slices.Clone(packets)
	for i := range all {
		all[i].UDP = true
	}
	return all
}

// outside are the packets between a pod of each family and the world: begun here (by UDP too), by way of a
// node port there, and the answers. Without a default route there is no world.
func (p *Patient) outside() []inspect.Packet {
	var packets []inspect.Packet
	for _, family := range p.families() {
		world := netip.MustParsePrefix("11.0.0.1/32") // as good as any that is neither private nor for documentation
		if family == 6 {
			world = netip.MustParsePrefix("2600::1/128")
		}
		i := slices.IndexFunc(p.Host.Routes, func(r topology.Route) bool { return r.Dst.Bits() == 0 && r.Dst.Addr().Is4() == (family == 4) })
		if i < 0 {
			continue
		}
		for _, pod := range p.pods() {
			if dev := p.Host.Routes[i].Dev; pod.Addr().Is4() == (family == 4) && pod.Bits() > 0 {
				begunHere := []inspect.Packet{{In: p.Bridge, Out: dev, From: pod, To: world}, {In: dev, Out: p.Bridge, From: world, To: pod, Reply: true}}
				packets = append(packets, begunHere...)
				packets = append(packets,
					inspect.Packet{In: dev, Out: p.Bridge, From: world, To: pod}, inspect.Packet{In: p.Bridge, Out: dev, From: pod, To: world, Reply: true})
				packets = append(packets, datagrams(begunHere)...)
			}
		}
	}
	return packets
}

// somePeer is the pod subnet of a peer, its InternalIP, and the uplink that leads there.
func (p *Patient) somePeer(is4 bool) (subnet netip.Prefix, hop netip.Addr, dev string) {
	for _, r := range p.State.Routes {
		if r.Metric == topology.MetricPeer && r.Dst.Addr().Is4() == is4 {
			return r.Dst, r.Via, r.Dev
		}
	}
	if p.Report != nil && len(p.Report.Host.Uplinks) == 1 {
		return anywhere(is4), netip.Addr{}, p.Report.Host.Uplinks[0].Name
	}
	return anywhere(is4), netip.Addr{}, ""
}

func anywhere(is4 bool) netip.Prefix {
	if is4 {
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
}

// acceptRules gives the commands that let pods through a chain.
func acceptRules(c inspect.Chain, subnets []string) string {
	program := "nft insert rule " + c.Family + " " + c.Table + " " + c.Name + " "
	if c.Legacy {
		program = c.Family + "tables-legacy -I " + c.Name + " "
	}
	var all []string
	for _, s := range subnets {
		family := "ip"
		if strings.Contains(s, ":") {
			family = "ip6"
		}
		switch {
		case c.Family != "inet" && c.Family != family:
		case c.Legacy:
			all = append(all, program+"-s "+s+" -j ACCEPT", program+"-d "+s+" -j ACCEPT")
		default:
			all = append(all, program+family+" saddr "+s+" accept", program+family+" daddr "+s+" accept")
		}
	}
	if len(all) == 0 {
		return "by the pods' bridge, in and out"
	}
	return "`" + strings.Join(all, "; ") + "`"
}
