package doctor

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/plainroute/plainroute/pkg/inspect"
	"github.com/plainroute/plainroute/pkg/problem"
)

// macAddresses looks for shared ones: a switch delivers packets for cloned machines to one of them.
func macAddresses(_ context.Context, t *Target) []problem.Problem {
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
	for _, r := range t.Host.Routes {
		for _, n := range table {
			if r.Dst.Bits() == 0 && r.Dev == dev && n.Addr == r.Via && n.Dev == dev {
				return n.MAC
			}
		}
	}
	return ""
}
