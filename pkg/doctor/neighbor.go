package doctor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/inspect"
	"github.com/plainroute/plainroute/pkg/problem"
)

// resolving bounds the time of the kernel's neighbor resolution: 3 s for a probe by us. Without the
// right to probe, the kernel trusts an old entry for 5 s more before it probes (arp(7):
// delay_first_probe_time, retrans_time).
const resolving = 9 * time.Second

// neighbors looks for on-link peers, and routers to the others, that do not answer ARP or neighbor
// discovery.
func neighbors(ctx context.Context, t *Target) []problem.Problem {
	s := &t.sweep
	hops := t.nextHops(s)
	silent, err := t.silentHops(ctx, s, hops)
	if err != nil {
		return Skip(err.Error(), "")
	}
	return silentProblems(silent, len(hops))
}

// A nextHop is an InternalIP of a peer, and the entry of the kernel's table by which packets go there:
// its own, or that of a router.
type nextHop struct {
	peer  peer
	addr  netip.Addr
	entry inspect.Neighbor
}

func newNextHop(one peer, addr netip.Addr, route inspect.Route) nextHop {
	return nextHop{one, addr, inspect.Neighbor{Addr: cmp.Or(route.Via, addr), Dev: route.Dev, State: inspect.Failed}}
}

func (t *Target) nextHops(s *sweep) []nextHop {
	var all []nextHop
	for one, hop := range s.hops() {
		if route, err := t.Kernel.RouteTo(hop); err == nil {
			all = append(all, newNextHop(one, hop, route))
		}
	}
	return all
}

// errOutputBlocked is returned if no probe left this host, so the kernel resolved no neighbor.
var errOutputBlocked = fmt.Errorf("this node's own firewall (hook output) drops the probes, UDP to the port 9: %w", unix.EPERM)

// silentHops waits until the kernel has resolved all next hops or given up, and returns the latter.
func (t *Target) silentHops(ctx context.Context, s *sweep, hops []nextHop) ([]nextHop, error) {
	ctx, cancel := context.WithTimeout(ctx, resolving)
	defer cancel()
	table, err := t.Kernel.Neighbors()
	if err != nil {
		return nil, err
	}
	probed := slices.DeleteFunc(slices.Clone(hops), func(h nextHop) bool { return h.unresolved(s, table) })
	if len(probed) == 0 && len(hops) > 0 {
		return nil, errOutputBlocked
	}
	t.reprobe(s, probed, table)
	for {
		if table, err = t.Kernel.Neighbors(); err != nil {
			return nil, err
		}
		silent, pending := resolve(s, probed, table)
		if !pending {
			return silent, nil
		}
		select {
		case <-ctx.Done():
			return silent, nil
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// unresolved reports whether the kernel never tried: our firewall dropped the only packet, a probe.
func (h nextHop) unresolved(s *sweep, table []inspect.Neighbor) bool {
	return h.in(table) < 0 && errors.Is(s.small(h.addr).err, unix.EPERM)
}

// reprobe makes the kernel probe neighbors that it considers reachable and that answered nothing,
// because it trusts an entry for half a minute (base_reachable_time of arp(7)). Live ones answer at
// once.
func (t *Target) reprobe(s *sweep, hops []nextHop, table []inspect.Neighbor) {
	trusted := []inspect.NeighborState{inspect.Reachable, inspect.Stale, inspect.Delay}
	for _, h := range hops {
		if i := h.in(table); i >= 0 && !s.alive(h.addr) && slices.Contains(trusted, table[i].State) {
			_ = t.Kernel.ProbeNeighbor(table[i]) // without CAP_NET_ADMIN the kernel's state has to do
		}
	}
}

// in returns the index of a next hop in the kernel's table, -1 if it is not there.
func (h nextHop) in(table []inspect.Neighbor) int {
	return slices.IndexFunc(table, func(n inspect.Neighbor) bool { return n.Addr == h.entry.Addr && n.Dev == h.entry.Dev })
}

// resolve returns the next hops that do not answer, and whether the kernel is still resolving some.
func resolve(s *sweep, hops []nextHop, table []inspect.Neighbor) (silent []nextHop, pending bool) {
	for _, h := range hops {
		if i := h.in(table); i >= 0 {
			h.entry = table[i]
		}
		switch alive := s.alive(h.addr); h.entry.State {
		case inspect.Reachable, inspect.Permanent, inspect.NoARP:
		case inspect.Stale, inspect.Delay, inspect.Probe:
			pending = pending || !alive
		case inspect.Incomplete:
			silent, pending = append(silent, h), true
		case inspect.Failed:
			if !alive {
				silent = append(silent, h)
			}
		}
	}
	return silent, pending
}

// silentProblems distinguishes ready peers, NotReady ones, and a link on which no peer answers.
func silentProblems(silent []nextHop, probed int) []problem.Problem {
	var lost, away group
	for _, h := range silent {
		g := &lost
		if h.peer.away {
			g = &away
		}
		g.add(h.peer.name, "ip neigh: %s", h.entry)
	}
	found := lost.problems(problem.Error, "peers that are ready do not answer ARP or neighbor discovery, so their pods can't be reached from here: ",
		"check whether the node still has that address (`ip address` there, `kubectl get node -o wide`), and the switch, VLAN or security group between the two")
	if len(lost.names) > 1 && len(silent) == probed {
		found = Fail("no peer answers on the link, so no pod of another node can be reached from here", first(lost.evidence),
			"look at this node's own link: cable, VLAN, the hypervisor's port group, `ip -s link`; and at a firewall that drops ARP or ICMPv6 neighbor discovery")
	}
	return append(found, away.problems(problem.Warning, "peers do not answer and are NotReady: ",
		"repair them, or delete their Nodes and with them their routes: kubectl delete node NAME")...)
}

// macAddresses looks for shared ones: a switch delivers packets for cloned machines to one of them.
func macAddresses(_ context.Context, t *Target) []problem.Problem {
	table, err := t.Kernel.Neighbors()
	devices, failure := t.Kernel.Devices()
	if err := errors.Join(err, failure); err != nil {
		return Skip(err.Error(), "")
	}
	own := map[string]string{}
	for _, d := range devices {
		own[d.Name] = d.MAC
	}
	return t.sharedMACs(table, own)
}

// A macOwner is the peers that have one MAC address on a link.
type macOwner struct {
	inspect.Neighbor // the first entry with it
	peers, addrs     []string
}

const cloneRemedy = "give each machine a MAC address of its own in its hypervisor, and a machine ID: rm /etc/machine-id && systemd-machine-id-setup, then reboot it (if one machine answers for the other on purpose, switch off its proxy_arp)"

func (t *Target) sharedMACs(table []inspect.Neighbor, own map[string]string) []problem.Problem {
	owners := t.macOwners(table)
	known := 0
	for _, o := range owners {
		known += len(o.peers)
	}
	var found []problem.Problem
	for _, o := range owners {
		shown := fmt.Sprintf("ip neigh show dev %s: lladdr %s of %s", o.Dev, o.MAC, named(o.addrs))
		switch {
		case own[o.Dev] == o.MAC:
			found = append(found, Fail("a peer has the MAC address of this node, as a cloned machine does: "+named(o.peers), shown, cloneRemedy)...)
		case len(o.peers) < 2:
		case o.MAC == t.routerMAC(o.Dev, table) || len(o.peers) > 2 && len(o.peers) == known:
			found = append(found, Warn("a router answers for the peers with its own MAC address (proxy ARP, as clouds do), so it receives the packets for their pods", shown,
				"give that router or cloud network a route for each pod subnet, and switch its source and destination checks off; where it drops them, pods of other nodes can't be reached")...)
		default:
			found = append(found, Fail("peers share one MAC address, as cloned machines do, so packets for one reach the other: "+named(o.peers), shown, cloneRemedy)...)
		}
	}
	return found
}

// macOwners groups the peers by their MAC addresses in the kernel's table, sorted.
func (t *Target) macOwners(table []inspect.Neighbor) []*macOwner {
	names := map[netip.Addr]string{}
	for _, one := range t.peers() {
		for _, hop := range one.hops() {
			names[hop] = one.name
		}
	}
	byMAC := map[[2]string]*macOwner{}
	for _, n := range table {
		name, isPeer := names[n.Addr]
		if !isPeer || n.MAC == "" || n.State == inspect.Failed {
			continue
		}
		key := [2]string{n.Dev, n.MAC}
		if byMAC[key] == nil {
			byMAC[key] = &macOwner{Neighbor: n}
		}
		o := byMAC[key]
		o.addrs = append(o.addrs, n.Addr.String())
		if !slices.Contains(o.peers, name) {
			o.peers = append(o.peers, name)
		}
	}
	return slices.SortedFunc(maps.Values(byMAC), func(a, b *macOwner) int {
		return cmp.Or(cmp.Compare(a.Dev, b.Dev), cmp.Compare(a.MAC, b.MAC))
	})
}

// routerMAC returns the MAC address of the default gateway behind a device, "" if it is unknown.
func (t *Target) routerMAC(dev string, table []inspect.Neighbor) string {
	for _, r := range t.Host.AllRoutes() {
		for _, n := range table {
			if r.Dst.Bits() == 0 && r.Dev == dev && n.Addr == r.Via && n.Dev == dev {
				return n.MAC
			}
		}
	}
	return ""
}
