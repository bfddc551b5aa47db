package doctor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/inspect"
	"github.com/plainroute/plainroute/pkg/problem"
)

// resolving bounds the time of the kernel's neighbor resolution: 3 s for a probe by us. Without the
// right to probe, the kernel trusts an old entry for 5 s more before it probes (arp(7):
// delay_first_probe_time, retrans_time).
const resolving = 9 * time.Second

// neighbors looks for on-link peers that do not answer ARP or neighbor discovery, without which no
// packet to their pods leaves this node.
func neighbors(ctx context.Context, t *Target) []problem.Problem {
	if t.Kernel == nil {
		return Skip("the kernel can't be looked at", "")
	}
	if found := t.unknownPeers(); found != nil {
		return found
	}
	r := t.sweepPeers(ctx)
	if r.err != nil {
		return Skip(r.err.Error(), "")
	}
	nextHops := t.onLink(r)
	silent, err := t.silent(ctx, r, nextHops)
	if err != nil {
		return Skip(err.Error(), "")
	}
	return silentProblems(silent, len(nextHops))
}

// A nextHop is an on-link address of a peer.
type nextHop struct {
	peer  peer
	hop   netip.Addr
	entry inspect.Neighbor
}

func (t *Target) onLink(r *sweep) []nextHop {
	var all []nextHop
	for _, one := range r.peers {
		for _, hop := range one.hops {
			if route, err := t.Kernel.RouteTo(hop); err == nil && !route.Via.IsValid() {
				all = append(all, nextHop{peer: one, hop: hop, entry: inspect.Neighbor{Addr: hop, Dev: route.Dev, State: inspect.Failed}})
			}
		}
	}
	return all
}

// errOutputBlocked is returned if no probe left this host, so the kernel resolved no neighbor.
var errOutputBlocked = fmt.Errorf("this node's own firewall (hook output) drops the probes, UDP to the port 9: %w", unix.EPERM)

// probed leaves out next hops that the kernel never resolved: our own firewall dropped the probe,
// and no other program sent a packet.
func (t *Target) probed(r *sweep, nextHops []nextHop) ([]nextHop, error) {
	table, err := t.Kernel.Neighbors()
	if err != nil {
		return nil, err
	}
	probed := slices.DeleteFunc(slices.Clone(nextHops), func(h nextHop) bool {
		return h.in(table) < 0 && errors.Is(r.results[probe{h.hop, smallSize}].why, unix.EPERM)
	})
	if len(probed) == 0 && len(nextHops) > 0 {
		return nil, errOutputBlocked
	}
	return probed, nil
}

// reprobe makes the kernel probe neighbors that it considers reachable and that answered nothing,
// because it trusts an entry for half a minute (base_reachable_time of arp(7)). Live ones answer at
// once.
func (t *Target) reprobe(r *sweep, nextHops []nextHop) error {
	table, err := t.Kernel.Neighbors()
	if err != nil {
		return err
	}
	for _, h := range nextHops {
		if r.alive(h.hop) {
			continue
		}
		if i := h.in(table); i >= 0 && slices.Contains([]inspect.NeighborState{inspect.Reachable, inspect.Stale, inspect.Delay}, table[i].State) {
			_ = t.Kernel.ProbeNeighbor(table[i]) // without CAP_NET_ADMIN the kernel's word is all that there is
		}
	}
	return nil
}

// in returns the index of a next hop in the kernel's table, -1 if it is not there.
func (h nextHop) in(table []inspect.Neighbor) int {
	return slices.IndexFunc(table, func(n inspect.Neighbor) bool { return n.Addr == h.hop && n.Dev == h.entry.Dev })
}

// silent waits until the kernel has made up its mind about all targets.
func (t *Target) silent(ctx context.Context, r *sweep, nextHops []nextHop) ([]nextHop, error) {
	ctx, cancel := context.WithTimeout(ctx, resolving)
	defer cancel()
	nextHops, err := t.probed(r, nextHops)
	if err != nil {
		return nil, err
	}
	if err := t.reprobe(r, nextHops); err != nil {
		return nil, err
	}
	for {
		table, err := t.Kernel.Neighbors()
		if err != nil {
			return nil, err
		}
		silent, open := judge(r, nextHops, table)
		if !open {
			return silent, nil
		}
		select {
		case <-ctx.Done():
			return silent, nil
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// judge returns the next hops that do not answer, and whether the kernel is still resolving some.
func judge(r *sweep, nextHops []nextHop, table []inspect.Neighbor) (silent []nextHop, open bool) {
	for _, h := range nextHops {
		if i := h.in(table); i >= 0 {
			h.entry = table[i]
		}
		switch h.entry.State {
		case inspect.Reachable, inspect.Permanent, inspect.NoARP:
		case inspect.Stale, inspect.Delay, inspect.Probe:
			open = open || !r.alive(h.hop)
		case inspect.Incomplete:
			silent, open = append(silent, h), true
		case inspect.Failed:
			if !r.alive(h.hop) {
				silent = append(silent, h)
			}
		}
	}
	return silent, open
}

// silentProblems distinguishes silent peers that should answer from NotReady ones, and from a link
// on which no peer answers.
func silentProblems(silent []nextHop, probed int) []problem.Problem {
	var lost, away []nextHop
	for _, h := range silent {
		if h.peer.away {
			away = append(away, h)
		} else {
			lost = append(lost, h)
		}
	}
	var found []problem.Problem
	switch {
	case len(lost) > 1 && len(silent) == probed:
		found = append(found, Fail("no peer answers on the link, so no pod of another node can be reached from here", evidence(lost),
			"look at this node's own link: cable, VLAN, the hypervisor's port group, `ip -s link`; and at a firewall that drops ARP or ICMPv6 neighbor discovery"))
	case len(lost) > 0:
		found = append(found, Fail("peers that are ready do not answer ARP or neighbor discovery, so their pods can't be reached from here: "+namesOf(lost), evidence(lost),
			"check whether the node still has that address (`ip address` there, `kubectl get node -o wide`), and the switch, VLAN or security group between the two"))
	}
	if len(away) > 0 {
		found = append(found, Warn("peers do not answer and are NotReady: "+namesOf(away), evidence(away),
			"repair them, or delete their Nodes and with them their routes: kubectl delete node NAME"))
	}
	return found
}

func namesOf(nextHops []nextHop) string {
	var names []string
	for _, h := range nextHops {
		names = append(names, h.peer.name)
	}
	return named(names)
}

// evidence returns the first few entries as ip-neighbour(8) prints them.
func evidence(nextHops []nextHop) string {
	const few = 5
	var lines []string
	for _, h := range nextHops[:min(few, len(nextHops))] {
		lines = append(lines, h.entry.String())
	}
	return "ip neigh: " + strings.Join(lines, "; ")
}

// macAddresses looks for MAC addresses that several peers share: a switch delivers packets for
// cloned machines to one of them.
func macAddresses(ctx context.Context, t *Target) []problem.Problem {
	if t.Kernel == nil {
		return Skip("the kernel can't be looked at", "")
	}
	if found := t.unknownPeers(); found != nil {
		return found
	}
	t.sweepPeers(ctx)
	table, err := t.Kernel.Neighbors()
	if err != nil {
		return Skip(err.Error(), "")
	}
	own, err := t.Kernel.MACs()
	if err != nil {
		return Skip(err.Error(), "")
	}
	return t.sharedMACs(table, own)
}

// A macOwner is a MAC address on a link, and the peers that have it.
type macOwner struct {
	dev, mac string
	peers    []string
	addrs    []string
}

func (t *Target) sharedMACs(table []inspect.Neighbor, own map[string]string) []problem.Problem {
	owners := map[netip.Addr]string{}
	for _, one := range t.peers() {
		for _, hop := range one.hops {
			owners[hop] = one.name
		}
	}
	all := macOwners(table, owners)
	known := 0
	for _, c := range all {
		known += len(c.peers)
	}
	var found []problem.Problem
	for _, c := range all {
		shown := fmt.Sprintf("ip neigh show dev %s: lladdr %s of %s", c.dev, c.mac, named(c.addrs))
		switch {
		case own[c.dev] == c.mac:
			found = append(found, Fail("a peer has the MAC address of this node, as a cloned machine does: "+named(c.peers), shown, cloneRemedy))
		case len(c.peers) < 2:
		case c.mac == t.routerMAC(c.dev, table) || len(c.peers) > 2 && len(c.peers) == known:
			found = append(found, Warn("a router answers for the peers with its own MAC address (proxy ARP, as clouds do), so it receives the packets for their pods", shown,
				"give that router or cloud network a route for each pod subnet, and switch its source and destination checks off; where it drops them, pods of other nodes can't be reached"))
		default:
			found = append(found, Fail("peers share one MAC address, as cloned machines do, so packets for one reach the other: "+named(c.peers), shown, cloneRemedy))
		}
	}
	return found
}

const cloneRemedy = "give each machine a MAC address of its own in its hypervisor, and a machine ID: rm /etc/machine-id && systemd-machine-id-setup, then reboot it (if one machine answers for the other on purpose, switch off its proxy_arp)"

// macOwners groups the peers by their MAC addresses in the kernel's table.
func macOwners(table []inspect.Neighbor, owners map[netip.Addr]string) []macOwner {
	byMAC := map[[2]string]*macOwner{}
	for _, n := range table {
		name, ours := owners[n.Addr]
		if !ours || n.MAC == "" || n.State == inspect.Failed {
			continue
		}
		key := [2]string{n.Dev, n.MAC}
		if byMAC[key] == nil {
			byMAC[key] = &macOwner{dev: n.Dev, mac: n.MAC}
		}
		c := byMAC[key]
		c.addrs = append(c.addrs, n.Addr.String())
		if !slices.Contains(c.peers, name) {
			c.peers = append(c.peers, name)
		}
	}
	var all []macOwner
	for _, c := range byMAC {
		all = append(all, *c)
	}
	slices.SortFunc(all, func(a, b macOwner) int { return cmp.Or(cmp.Compare(a.dev, b.dev), cmp.Compare(a.mac, b.mac)) })
	return all
}

// routerMAC returns the MAC address of the default gateway behind a device, "" if it is unknown.
func (t *Target) routerMAC(dev string, table []inspect.Neighbor) string {
	for _, r := range t.Host.Routes {
		if r.Dst.Bits() != 0 || r.Dev != dev {
			continue
		}
		for _, n := range table {
			if n.Addr == r.Via && n.Dev == dev {
				return n.MAC
			}
		}
	}
	return ""
}
