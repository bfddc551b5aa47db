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

// forwardPolicy evaluates each base chain that forwarded packets pass for the packets that pods
// need. A packet that one chain drops is lost, although another chain, or ours, accepts it.
func forwardPolicy(_ context.Context, t *Target) []problem.Problem {
	if t.Kernel == nil {
		return Skip("the kernel can't be looked at", "")
	}
	inside, outside := t.forwarded(), t.outside()
	packets := slices.Concat(inside, outside)
	chains, err := t.Kernel.ForwardChains(packets)
	if err == nil {
		var legacy []inspect.Chain
		legacy, err = t.Kernel.LegacyForwardChains(packets)
		chains = append(chains, legacy...)
	}
	if err != nil {
		return Skip(err.Error(), "run it with CAP_NET_ADMIN")
	}
	var found []problem.Problem
	for _, c := range chains {
		if f, bad := t.judge(c, inside); bad {
			found = append(found, f)
		} else if f, bad := t.outsideProblem(c, outside, c.Outcomes[len(inside):]); bad {
			found = append(found, f)
		}
	}
	return found
}

// lost reports whether a chain certainly drops a packet.
func lost(f inspect.Outcome) bool { return f.Dropped && !f.Accepted }

// judge returns the worst effect of a chain on the packets within the cluster.
func (t *Target) judge(c inspect.Chain, packets []inspect.Packet) (problem.Problem, bool) {
	dialResults := c.Outcomes[:len(packets)]
	remedy := "accept what comes from and goes to the pods there, before it drops: " + acceptRules(c, t.Subnets()) +
		"; or have the firewall plugin accept what pods begin, and one rule more what others begin (--firewall-plugin, docs/install.md)"
	if i := slices.IndexFunc(dialResults, lost); i >= 0 {
		fault := "a firewall drops packets of pods"
		if !slices.ContainsFunc(c.Outcomes, func(f inspect.Outcome) bool { return !lost(f) }) {
			fault = "a firewall drops all forwarded packets, so pods reach nothing beyond this node"
		}
		return Fail(fault, c.String()+": "+dialResults[i].DroppedBy+" drops what goes "+packets[i].String(), remedy), true
	}
	for i, f := range dialResults {
		// Rules in other hooks depend on what is unknown here, such as marks or the reverse path.
		if !f.Dropped || unbounded(packets[i]) || c.Hook != inspect.HookForward {
			continue
		}
		evidence := c.String() + ": " + f.DroppedBy + " may drop what goes " + packets[i].String()
		if f.UncertainRule != f.DroppedBy {
			evidence += "; that depends on " + f.UncertainRule
		}
		return Warn("a firewall may drop packets of pods: that depends on a rule which doctor can't evaluate", evidence, remedy), true
	}
	return problem.Problem{}, false
}

// outsideProblem reports packets between pods and the outside that a chain certainly drops. An
// operator may intend that.
func (t *Target) outsideProblem(c inspect.Chain, packets []inspect.Packet, dialResults []inspect.Outcome) (problem.Problem, bool) {
	i := slices.IndexFunc(dialResults, lost)
	if i < 0 {
		return problem.Problem{}, false
	}
	return Warn("a firewall drops packets between pods and the world beyond the cluster", c.String()+": "+dialResults[i].DroppedBy+" drops what goes "+packets[i].String(),
		"if that is not intended, accept what comes from and goes to them there, before it drops: "+acceptRules(c, t.Subnets())), true
}

// unbounded reports whether an end of a packet is unknown. Every rule about addresses matches some
// of such packets, such as kube-proxy's rules for Services, which proves nothing.
func unbounded(p inspect.Packet) bool { return p.From.Bits() == 0 || p.To.Bits() == 0 }

// maxPods is how many pods are examined one by one, because rules may be made for each.
const maxPods = 64

// pods returns addresses of pods here, at most maxPods, and each subnet without a known pod as a
// whole.
func (t *Target) pods() []netip.Prefix {
	var pods, all []netip.Prefix
	held, _ := t.leases() // the check leases reports the error
	for _, l := range held {
		if within(t.ownSubnets(), l.addr) && len(pods) < maxPods {
			pods = append(pods, single(l.addr))
		}
	}
	for _, s := range t.ownSubnets() {
		if !slices.ContainsFunc(pods, func(pod netip.Prefix) bool { return s.Contains(pod.Addr()) }) {
			all = append(all, s)
		}
	}
	if all = append(all, pods...); len(all) == 0 {
		all = []netip.Prefix{anywhere(true)}
	}
	return all
}

// forwarded returns the packets that a cluster needs: between a pod here and a peer's pod, the peer
// itself (its host-network pods, kubelet, API server, node ports), and another pod here
// (bridge-nf-call, Services), in both directions with their replies, by TCP and, as to a DNS
// server, by UDP.
func (t *Target) forwarded() []inspect.Packet {
	var packets []inspect.Packet
	between := func(pod netip.Prefix, far netip.Prefix, dev string) {
		for _, reply := range []bool{false, true} {
			packets = append(packets, inspect.Packet{In: t.Bridge, Out: dev, From: pod, To: far, Reply: reply},
				inspect.Packet{In: dev, Out: t.Bridge, From: far, To: pod, Reply: reply})
		}
	}
	for _, pod := range t.pods() {
		peer, hop, uplink := t.somePeer(pod.Addr().Is4())
		between(pod, peer, uplink)
		if hop.IsValid() {
			between(pod, single(hop), uplink)
		}
		for _, s := range t.ownSubnets() {
			if s.Contains(pod.Addr()) {
				between(pod, s, t.Bridge)
			}
		}
	}
	return append(packets, datagrams(packets)...)
}

// datagrams returns packets of UDP between the same ends.
func datagrams(packets []inspect.Packet) []inspect.Packet {
	all := slices.Clone(packets)
	for i := range all {
		all[i].UDP = true
	}
	return all
}

// outside returns the packets between a pod of each family and the outside: a connection from here
// (by UDP too), one to a node port, and the replies. Without a default route there are none.
func (t *Target) outside() []inspect.Packet {
	var packets []inspect.Packet
	for _, family := range t.families() {
		world := netip.MustParsePrefix("11.0.0.1/32") // as good as any that is neither private nor for documentation
		if family == 6 {
			world = netip.MustParsePrefix("2600::1/128")
		}
		i := slices.IndexFunc(t.Host.Routes, func(r topology.Route) bool { return r.Dst.Bits() == 0 && r.Dst.Addr().Is4() == (family == 4) })
		if i < 0 {
			continue
		}
		for _, pod := range t.pods() {
			if dev := t.Host.Routes[i].Dev; pod.Addr().Is4() == (family == 4) && pod.Bits() > 0 {
				begunHere := []inspect.Packet{{In: t.Bridge, Out: dev, From: pod, To: world}, {In: dev, Out: t.Bridge, From: world, To: pod, Reply: true}}
				packets = append(packets, begunHere...)
				packets = append(packets,
					inspect.Packet{In: dev, Out: t.Bridge, From: world, To: pod}, inspect.Packet{In: t.Bridge, Out: dev, From: pod, To: world, Reply: true})
				packets = append(packets, datagrams(begunHere)...)
			}
		}
	}
	return packets
}

// somePeer returns the pod subnet of a peer, its InternalIP, and the uplink that leads there.
func (t *Target) somePeer(is4 bool) (subnet netip.Prefix, hop netip.Addr, dev string) {
	for _, r := range t.State.Routes {
		if r.Metric == topology.MetricPeer && r.Dst.Addr().Is4() == is4 {
			return r.Dst, r.Via, r.Dev
		}
	}
	if t.Report != nil && len(t.Report.Host.Uplinks) == 1 {
		return anywhere(is4), netip.Addr{}, t.Report.Host.Uplinks[0].Name
	}
	return anywhere(is4), netip.Addr{}, ""
}

func anywhere(is4 bool) netip.Prefix {
	if is4 {
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
}

// acceptRules returns the commands that make a chain accept packets of pods.
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
