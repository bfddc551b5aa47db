package doctor

import (
	"cmp"
	"context"
	"fmt"
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
	inside, outside := t.forwarded(), t.outside()
	packets := slices.Concat(inside, outside)
	chains, err := t.Kernel.ForwardChains(packets)
	legacy, legacyErr := t.Kernel.LegacyForwardChains(packets)
	if err := cmp.Or(err, legacyErr); err != nil {
		return Skip(err.Error(), "run it with CAP_NET_ADMIN")
	}
	var found []problem.Problem
	for _, c := range append(chains, legacy...) {
		problems := t.insideProblem(c, inside)
		if problems == nil {
			problems = t.outsideProblem(c, outside, c.Outcomes[len(inside):])
		}
		found = append(found, problems...)
	}
	return found
}

// lost reports whether a chain certainly drops a packet.
func lost(f inspect.Outcome) bool { return f.Dropped && !f.Accepted }

// drops formats which rule of a chain drops a packet.
func drops(c inspect.Chain, o inspect.Outcome, verb string, p inspect.Packet) string {
	return c.String() + ": " + o.DroppedBy + verb + "what goes " + p.String()
}

// insideProblem returns the worst effect of a chain on the packets within the cluster.
func (t *Target) insideProblem(c inspect.Chain, packets []inspect.Packet) []problem.Problem {
	outcomes := c.Outcomes[:len(packets)]
	remedy := "accept what comes from and goes to the pods there, before it drops: " + acceptRules(c, t.ownSubnets()) +
		"; or have the firewall plugin accept what pods begin, and one rule more what others begin (--firewall-plugin, docs/install.md)"
	if i := slices.IndexFunc(outcomes, lost); i >= 0 {
		message := "a firewall drops packets of pods"
		if !slices.ContainsFunc(c.Outcomes, func(o inspect.Outcome) bool { return !lost(o) }) {
			message = "a firewall drops all forwarded packets, so pods reach nothing beyond this node"
		}
		return Fail(message, drops(c, outcomes[i], " drops ", packets[i]), remedy)
	}
	for i, o := range outcomes {
		// Rules in other hooks depend on what is unknown here, such as marks or the reverse path.
		if !o.Dropped || unbounded(packets[i]) || c.Hook != inspect.HookForward {
			continue
		}
		evidence := drops(c, o, " may drop ", packets[i])
		if o.UncertainRule != o.DroppedBy {
			evidence += "; that depends on " + o.UncertainRule
		}
		return Warn("a firewall may drop packets of pods: that depends on a rule which doctor can't evaluate", evidence, remedy)
	}
	return nil
}

// outsideProblem reports what a chain drops between pods and the outside. That may be intended.
func (t *Target) outsideProblem(c inspect.Chain, packets []inspect.Packet, outcomes []inspect.Outcome) []problem.Problem {
	i := slices.IndexFunc(outcomes, lost)
	if i < 0 {
		return nil
	}
	return Warn("a firewall drops packets between pods and the world beyond the cluster", drops(c, outcomes[i], " drops ", packets[i]),
		"if that is not intended, accept what comes from and goes to them there, before it drops: "+acceptRules(c, t.ownSubnets()))
}

// unbounded reports whether an end is unknown: each rule about addresses matches some such packets.
func unbounded(p inspect.Packet) bool { return p.From.Bits() == 0 || p.To.Bits() == 0 }

// maxPods is how many pods are examined one by one, because rules may be made for each.
const maxPods = 64

// pods returns up to maxPods addresses of pods here, and each subnet without a known pod as a whole.
func (t *Target) pods() []netip.Prefix {
	var pods []netip.Prefix
	held, _ := t.leases() // the check leases reports the error
	for _, l := range held {
		if within(t.ownSubnets(), l.Addr) && len(pods) < maxPods {
			pods = append(pods, single(l.Addr))
		}
	}
	all := slices.DeleteFunc(slices.Clone(t.ownSubnets()), func(s netip.Prefix) bool {
		return slices.ContainsFunc(pods, func(pod netip.Prefix) bool { return s.Contains(pod.Addr()) })
	})
	if all = append(all, pods...); len(all) == 0 {
		return []netip.Prefix{anywhere(true)}
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
		for _, p := range t.somePeers(pod.Addr().Is4()) {
			between(pod, p.subnet, p.dev)
			if p.addr.IsValid() {
				between(pod, single(p.addr), p.dev)
			}
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
		// As good as any address that is neither private nor for documentation.
		world := netip.MustParsePrefix(map[int]string{4: "11.0.0.1/32", 6: "2600::1/128"}[family])
		i := slices.IndexFunc(t.Host.Routes, func(r topology.Route) bool { return r.Dst.Bits() == 0 && familyOf(r.Dst.Addr()) == family })
		if i < 0 {
			continue
		}
		dev := t.Host.Routes[i].Dev
		for _, pod := range t.pods() {
			if familyOf(pod.Addr()) == family && pod.Bits() > 0 {
				begunHere := []inspect.Packet{{In: t.Bridge, Out: dev, From: pod, To: world}, {In: dev, Out: t.Bridge, From: world, To: pod, Reply: true}}
				begunThere := []inspect.Packet{{In: dev, Out: t.Bridge, From: world, To: pod}, {In: t.Bridge, Out: dev, From: pod, To: world, Reply: true}}
				packets = slices.Concat(packets, begunHere, begunThere, datagrams(begunHere))
			}
		}
	}
	return packets
}

// A reached is a peer's pod subnet, its own address, and the device that leads to both.
type reached struct {
	subnet netip.Prefix
	addr   netip.Addr // invalid if it is unknown
	dev    string
}

// somePeers returns a peer for each device that leads to any.
func (t *Target) somePeers(is4 bool) []reached {
	var some []reached
	for _, r := range t.State.Routes {
		if r.ToPeer() && r.Dst.Addr().Is4() == is4 && !slices.ContainsFunc(some, func(p reached) bool { return p.dev == r.Dev }) {
			addr, _ := t.peerAddr(r)
			some = append(some, reached{r.Dst, addr, r.Dev})
		}
	}
	if len(some) > 0 {
		return some
	}
	dev := ""
	if uplinks := t.uplinks(); len(uplinks) == 1 {
		dev = uplinks[0]
	}
	return []reached{{subnet: anywhere(is4), dev: dev}}
}

func anywhere(is4 bool) netip.Prefix {
	if is4 {
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
}

// acceptRules returns the commands that make a chain accept packets of pods.
func acceptRules(c inspect.Chain, subnets []netip.Prefix) string {
	var all []string
	for _, s := range subnets {
		family := map[int]string{4: "ip", 6: "ip6"}[familyOf(s.Addr())]
		if c.Family != "inet" && c.Family != family {
			continue
		}
		for _, end := range []string{"source", "destination"} {
			rule := fmt.Sprintf("nft insert rule %s %s %s %s %caddr %s accept", c.Family, c.Table, c.Name, family, end[0], s)
			if c.Legacy {
				rule = fmt.Sprintf("%stables-legacy -I %s -%c %s -j ACCEPT", c.Family, c.Name, end[0], s)
			}
			all = append(all, rule)
		}
	}
	if len(all) == 0 {
		return "by the pods' bridge, in and out"
	}
	return "`" + strings.Join(all, "; ") + "`"
}
