package doctor

import (
	"context"
	"net/netip"
	"slices"
	"strings"

	"github.com/plainroute/plainroute/pkg/dataplane"
	"github.com/plainroute/plainroute/pkg/topology"
)

// forwardPolicy sends the packets that pods live by, in thought, through each base chain
// of hook forward: what one chain drops, an accept in another, or of ours, does not save.
func forwardPolicy(_ context.Context, p *Patient) []Finding {
	if p.Kernel == nil {
		return Skip("the kernel can't be looked at", "")
	}
	packets := p.forwarded()
	chains, err := p.Kernel.ForwardChains(packets)
	if err == nil {
		var legacy []dataplane.Chain
		legacy, err = p.Kernel.LegacyForwardChains(packets)
		chains = append(chains, legacy...)
	}
	if err != nil {
		return Skip(err.Error(), "run it with CAP_NET_ADMIN")
	}
	var found []Finding
	for _, c := range chains {
		if f, bad := p.judge(c, packets); bad {
			found = append(found, f)
		}
	}
	return found
}

// judge tells the worst that a chain does to any of the packets.
func (p *Patient) judge(c dataplane.Chain, packets []dataplane.Packet) (Finding, bool) {
	cure := "accept what comes from and goes to the pods there, before it drops: " + acceptRules(c, p.Subnets()) +
		"; or have the firewall plugin accept what pods begin, and one rule more what others begin (--firewall-plugin, docs/install.md)"
	lost := func(f dataplane.Fate) bool { return f.Dropped && !f.Accepted }
	if i := slices.IndexFunc(c.Fates, lost); i >= 0 {
		fault := "a firewall drops packets of pods"
		if !slices.ContainsFunc(c.Fates, func(f dataplane.Fate) bool { return !lost(f) }) {
			fault = "a firewall drops all forwarded packets, so pods reach nobody beyond this node"
		}
		return Fail(fault, c.String()+": "+c.Fates[i].By+" drops what goes "+packets[i].String(), cure), true
	}
	for i, f := range c.Fates {
		if !f.Dropped || vague(packets[i]) {
			continue
		}
		evidence := c.String() + ": " + f.By + " drops what goes " + packets[i].String() + ", or does not"
		if f.Doubt != f.By {
			evidence += ": that hangs on " + f.Doubt
		}
		return Warn("a firewall may drop packets of pods: it depends on a rule of which nobody can tell whether it fits them", evidence, cure), true
	}
	return Finding{}, false
}

// vague tells that an end of a packet is not known. Every rule about addresses fits some such packets, as kube-proxy's about those
// of Services, and that says nothing.
func vague(p dataplane.Packet) bool { return p.From.Bits() == 0 || p.To.Bits() == 0 }

// manyPods are as many as are looked at one by one: rules may be made for each.
const manyPods = 64

// forwarded are the packets that matter: between a pod here and one of a peer, begun here
// and there, and the answers. Where no pod is known, any of our subnets has to do.
func (p *Patient) forwarded() []dataplane.Packet {
	var pods, all []netip.Prefix
	leases, _ := p.leasesHeld() // the check leases tells why they can't be read
	for _, l := range leases {
		if within(p.ownSubnets(), l.addr) && len(pods) < manyPods {
			pods = append(pods, netip.PrefixFrom(l.addr, l.addr.BitLen()))
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
	var packets []dataplane.Packet
	for _, pod := range all {
		peer, uplink := p.somePeer(pod.Addr().Is4())
		for _, answer := range []bool{false, true} {
			packets = append(packets, dataplane.Packet{In: p.Bridge, Out: uplink, From: pod, To: peer, Answer: answer},
				dataplane.Packet{In: uplink, Out: p.Bridge, From: peer, To: pod, Answer: answer})
		}
	}
	return packets
}

// somePeer is the pod subnet of a peer, and the uplink that leads there.
func (p *Patient) somePeer(is4 bool) (netip.Prefix, string) {
	for _, r := range p.State.Routes {
		if r.Metric == topology.MetricPeer && r.Dst.Addr().Is4() == is4 {
			return r.Dst, r.Dev
		}
	}
	if p.Report != nil && len(p.Report.Host.Uplinks) == 1 {
		return anywhere(is4), p.Report.Host.Uplinks[0].Name
	}
	return anywhere(is4), ""
}

func anywhere(is4 bool) netip.Prefix {
	if is4 {
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
}

// acceptRules gives the commands that let pods through a chain.
func acceptRules(c dataplane.Chain, subnets []string) string {
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
	return strings.Join(all, "; ")
}
