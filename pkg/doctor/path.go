package doctor

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/status"
	"github.com/plainroute/plainroute/pkg/topology"
)

// pathMTU looks for peers that packets of the pods' MTU do not reach.
func pathMTU(ctx context.Context, t *Target) []problem.Problem {
	s := &t.sweep
	switch {
	case s.size == 0:
		return Skip("the MTU of the pods is unknown: there is no CNI config of ours yet", "")
	case s.noneAnswered():
		return Skip("no peer answers datagrams, so the path MTU can't be measured", allowProbes)
	}
	var found []problem.Problem
	for _, added := range slices.Compact(slices.Sorted(maps.Values(s.added))) {
		found = slices.Concat(found, t.smallerMTUs(s, added), blackHoles(ctx, s, added))
	}
	return found
}

// largest is the size of the largest packets to peers with a tunnel that adds that many bytes.
func (s *sweep) largest(added int) string {
	if added == 0 {
		return fmt.Sprintf("%d bytes", s.size)
	}
	return fmt.Sprintf("%d bytes, of which the tunnel adds %d", s.size+added, added)
}

const allowProbes = "let UDP to the port 9 and ICMP \"port unreachable\" pass between nodes, or run plainroute check"

// noneAnswered reports whether there are peers and none of them answered.
func (s *sweep) noneAnswered() bool {
	for _, r := range s.results {
		if r.reached || r.mtu > 0 {
			return false
		}
	}
	return len(s.peers) > 0
}

// smallerMTUs reports next hops whose local link or route has a smaller MTU than the pods, and paths
// with one by a router's answer, which a firewall may hide from pods.
func (t *Target) smallerMTUs(s *sweep, added int) []problem.Problem {
	var link, path group
	least := s.size // what all paths leave for pods
	for one, hop := range s.hops() {
		r, mtu := s.large(hop), t.routeMTU(hop)
		reported := !r.local && r.mtu > 0
		if reported {
			least = min(least, r.mtu-s.added[hop])
		}
		switch {
		case s.added[hop] != added:
			continue
		case r.local && r.mtu > 0:
			link.add(one.name, "the link towards %s has an MTU of %d", hop, r.mtu)
		case mtu > 0 && mtu < s.size+added:
			link.add(one.name, "ip route get %s: mtu %d", hop, mtu)
		}
		if reported {
			path.add(one.name, "%s reports for the path to %s: mtu %d", r.sender, hop, r.mtu)
		}
	}
	found := link.problems(problem.Warning, fmt.Sprintf("pods may send packets of %s, which exceeds the MTU of this node's own link or route: towards ", s.largest(added)),
		"give the agent a --mtu that fits (0: the uplink's, less what the tunnel adds), and recreate the pods of this node; or raise the link's MTU")
	return append(found, path.problems(problem.Warning, fmt.Sprintf("the path's MTU is less than what pods send, %s: to ", s.largest(added)),
		fmt.Sprintf("raise the MTU on the way, or give all agents --mtu=%d and recreate the pods; until then, let no firewall drop ICMP \"fragmentation needed\" and ICMPv6 \"packet too big\"", least))...)
}

func (t *Target) routeMTU(hop netip.Addr) int {
	if t.Kernel == nil {
		return 0
	}
	route, _ := t.Kernel.RouteTo(hop) // without a route 0
	return route.MTU
}

// blackHoles finds paths that drop large packets silently: small ones are answered, large ones are
// not, without an ICMP error. Because the rate of answers is limited, suspects are probed again:
// only a small packet that is answered after a large one was not counts.
func blackHoles(ctx context.Context, s *sweep, added int) []problem.Problem {
	suspects := map[netip.Addr]string{}
	var probes []probe
	for one, hop := range s.hops() {
		if s.added[hop] == added && s.small(hop).reached && !s.large(hop).answered() {
			suspects[hop] = one.name
			probes = append(probes, s.largeProbe(hop), probe{hop, smallSize})
		}
	}
	if len(suspects) == 0 {
		return nil
	}
	s.confirmMutex.Lock()
	results, err := sendProbes(ctx, probes, sweepTimeout)
	s.confirmMutex.Unlock()
	if err != nil {
		return Skip(err.Error(), "")
	}
	var dropped group
	for _, hop := range slices.SortedFunc(maps.Keys(suspects), netip.Addr.Compare) {
		if results[probe{hop, smallSize}].reached && !results[s.largeProbe(hop)].answered() {
			dropped.add(suspects[hop], "%s answers packets of %d bytes, and none of %d with DF set", hop, smallSize, s.size+added)
		}
	}
	return dropped.problems(problem.Error, fmt.Sprintf("the path silently drops packets as large as pods send, %s, so connections open and hang when data flows: to ", s.largest(added)),
		"find the switch, tunnel or virtual port whose MTU is less, and raise it; or give all agents the --mtu that fits (ping -M do -s SIZE finds it; less what the tunnel adds), and recreate the pods")
}

// podPackets looks for peers that packets for their pods do not reach: many clouds drop those.
func podPackets(ctx context.Context, t *Target) []problem.Problem {
	s := &t.sweep
	suspects, alive := t.unarrived(s)
	if alive == 0 && len(s.peers) > 0 {
		return Skip("no peer answers datagrams by a route of ours, so it is unknown whether those for pods arrive", allowProbes)
	}
	suspects, err := t.confirmSuspects(ctx, s, suspects)
	if err != nil {
		return Skip(err.Error(), "")
	}
	var lost, tunneled group
	for _, one := range suspects {
		reason, g := "", &lost
		if r := s.small(one.gateway); r.err != nil {
			reason = fmt.Sprintf(" (%s answers: %s)", r.sender, r.err)
		}
		if s.added[one.hop] > 0 {
			g = &tunneled
		}
		g.add(one.name, "%s answers, %s behind it does not%s", one.hop, one.gateway, reason)
	}
	found := lost.problems(problem.Warning, "nodes answer, but packets to their pods' subnets do not arrive there, or the answers are lost: ", t.cloudRemedy())
	return append(found, tunneled.problems(problem.Warning, "nodes answer, but packets to their pods by the tunnel do not arrive there, or the answers are lost: ",
		"let UDP to the port of --vxlan-port pass between all nodes in both directions; --vxlan-port and --vxlan-id must be the same on all, and --encapsulation other than never")...)
}

// A suspect is a subnet whose gateway did not answer although its node did.
type suspect struct {
	name         string
	hop, gateway netip.Addr
}

// unarrived returns the suspects, and the number of subnets whose nodes answered.
func (t *Target) unarrived(s *sweep) (suspects []suspect, alive int) {
	for _, one := range s.peers {
		for _, path := range one.paths {
			if !path.hop.IsValid() || !s.alive(path.hop) || !t.routed(path.subnet) {
				continue
			}
			alive++
			if !t.arrived(s.small(topology.Gateway(path.subnet))) {
				suspects = append(suspects, suspect{one.name, path.hop, topology.Gateway(path.subnet)})
			}
		}
	}
	return suspects, alive
}

// confirmSuspects probes suspects again after a pause: a host sends one answer a second, but one in
// two seconds for an unreachable route (ip_error of net/ipv4/route.c, icmpv4_xrlim_allow of
// net/ipv4/icmp.c). Only a node that answers again, after its gateway did not, counts.
func (t *Target) confirmSuspects(ctx context.Context, s *sweep, suspects []suspect) ([]suspect, error) {
	if len(suspects) == 0 {
		return nil, nil
	}
	s.confirmMutex.Lock()
	defer s.confirmMutex.Unlock()
	select {
	case <-ctx.Done():
	case <-time.After(sweepTimeout):
	}
	var gateways, nodes []probe
	for _, one := range suspects {
		gateways, nodes = append(gateways, probe{one.gateway, smallSize}), append(nodes, probe{one.hop, smallSize})
	}
	results, err := sendProbes(ctx, gateways, resendAfter)
	if err != nil {
		return nil, err
	}
	alive, err := sendProbes(ctx, nodes, resendAfter)
	return slices.DeleteFunc(suspects, func(one suspect) bool {
		return t.arrived(results[probe{one.gateway, smallSize}]) || !alive[probe{one.hop, smallSize}].answered()
	}), err
}

// arrived reports whether a packet for a pod reached its node. An ICMP error that came neither from
// this host nor from one of its routers is that node's, from any of its addresses.
func (t *Target) arrived(r result) bool {
	return r.reached || r.sender.IsValid() && !t.hasAddr(r.sender) &&
		!slices.ContainsFunc(t.Host.AllRoutes(), func(route topology.Route) bool { return route.Via == r.sender })
}

// routed reports whether our route leads to the subnet, or the network's own routes are to. If not, a
// missing answer proves nothing.
func (t *Target) routed(subnet netip.Prefix) bool {
	byUnderlay := t.Report != nil && slices.ContainsFunc(t.Report.Peers, func(p status.Peer) bool {
		return p.Subnet == subnet && p.Path == topology.PathUnderlay
	})
	return byUnderlay || slices.ContainsFunc(t.State.Routes, func(r *topology.Route) bool {
		return r.Dst == subnet && r.Type == topology.Unicast && !t.takenByForeign(r)
	})
}

// clouds are the providers that drop packets with other addresses than the machine's own, by the
// scheme of the Nodes' providerID, and how to switch that off.
var clouds = []struct{ scheme, name, remedy string }{
	{"aws", "AWS", "switch the source/destination check off on each instance's interface: aws ec2 modify-instance-attribute --no-source-dest-check --instance-id ID; and allow the pod subnets in the security groups"},
	{"gce", "Google Cloud", "make the instances with --can-ip-forward, and give the VPC a route for each pod subnet: it delivers by its routes alone, not by MAC address; and allow the pod subnets in its firewall"},
	{"azure", "Azure", "enable IP forwarding on each network interface (az network nic update --ip-forwarding true), give the VNet a route table with each pod subnet, and allow them in the network security groups"},
	{"openstack", "OpenStack", "allow the pod subnets on each server's port: openstack port set --allowed-address ip-address=SUBNET PORT, or --disable-port-security"},
	{"hcloud", "Hetzner Cloud", "give the private network a route for each pod subnet with the server's private address as gateway: hcloud network add-route; its networks deliver by their routes alone"},
	{"digitalocean", "DigitalOcean", "its VPC drops addresses that are not the droplet's: an overlay is needed there"},
	{"oci", "Oracle Cloud", "tick \"skip source/destination check\" on each VNIC, and allow the pod subnets in the security lists"},
	{"ibm", "IBM Cloud", "allow IP spoofing on each instance's interface (--allow-ip-spoofing true), and allow the pod subnets in the security groups"},
	{"alicloud", "Alibaba Cloud", "give the VPC's route table an entry for each pod subnet with the instance as next hop"},
	{"vsphere", "vSphere", "look at NSX's SpoofGuard and distributed firewall on the port group, which have to let the pod subnets pass"},
}

// cloudRemedy returns the remediation for packets to pods that do not arrive.
func (t *Target) cloudRemedy() string {
	own := t.OwnNode()
	if own == nil && len(t.Nodes) > 0 {
		own = &t.Nodes[0]
	}
	if own != nil {
		scheme, _, _ := strings.Cut(own.Spec.ProviderID, "://")
		for _, c := range clouds {
			if c.scheme == scheme {
				return "on " + c.name + " (providerID " + own.Spec.ProviderID + "): " + c.remedy
			}
		}
	}
	return "look for a router between the nodes that lacks routes to the pods' subnets (plainroute agent --mode router keeps them), and for filters of addresses: a cloud's source/destination check, a hypervisor's anti-spoofing, rp_filter and firewalls; on the peer, `plainroute status` shows its agent's state, and tcpdump the packets that arrive"
}
