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

// resolving is how long the kernel may take to find out: asked by us it takes 3 s; where
// we may not, an entry that was good once is trusted for 5 s more, and then asked
// (arp(7): delay_first_probe_time, retrans_time).
const resolving = 9 * time.Second

// neighbours looks whether the peers that are on link answer ARP or neighbour
// discovery, without which no packet for their pods leaves this node.
func neighbours(ctx context.Context, p *Patient) []problem.Problem {
	if p.Kernel == nil {
		return Skip("the kernel can't be looked at", "")
	}
	if found := p.noPeers(); found != nil {
		return found
	}
	r := p.visit(ctx)
	if r.err != nil {
		return Skip(r.err.Error(), "")
	}
	targets := p.onLink(r)
	silent, err := p.silent(ctx, r, targets)
	if err != nil {
		return Skip(err.Error(), "")
	}
	return silentFindings(silent, len(targets))
}

// target is a next hop that packets reach without a router.
type target struct {
	peer  peer
	hop   netip.Addr
	entry inspect.Neighbor
}

func (p *Patient) onLink(r *round) []target {
	var all []target
	for _, one := range r.peers {
		for _, hop := range one.hops {
			if way, err := p.Kernel.RouteTo(hop); err == nil && !way.Via.IsValid() {
				all = append(all, target{peer: one, hop: hop, entry: inspect.Neighbor{Addr: hop, Dev: way.Dev, State: inspect.Failed}})
			}
		}
	}
	return all
}

// errBarred tells that the kernel was not made to look for anybody.
var errBarred = fmt.Errorf("this node's own firewall (hook output) drops what makes the kernel look for others, UDP to the port 9: %w", unix.EPERM)

// asked leaves out those for whom the kernel never looked: this node's own firewall
// dropped what was sent to them, and nobody else sought them.
func (p *Patient) asked(r *round, targets []target) ([]target, error) {
	table, err := p.Kernel.Neighbors()
	if err != nil {
		return nil, err
	}
	asked := slices.DeleteFunc(slices.Clone(targets), func(t target) bool {
		return t.in(table) < 0 && errors.Is(r.answers[question{t.hop, small}].why, unix.EPERM)
	})
	if len(asked) == 0 && len(targets) > 0 {
		return nil, errBarred
	}
	return asked, nil
}

// doubt has the kernel ask those whom it believes to be there and of whom nothing was
// heard: one that died a moment ago is believed for half a minute
// (base_reachable_time of arp(7)). Who is alive answers at once, and is left alone.
func (p *Patient) doubt(r *round, targets []target) error {
	table, err := p.Kernel.Neighbors()
	if err != nil {
		return err
	}
	for _, t := range targets {
		if r.alive(t.hop) {
			continue
		}
		if i := t.in(table); i >= 0 && slices.Contains([]inspect.NeighborState{inspect.Reachable, inspect.Stale, inspect.Delay}, table[i].State) {
			_ = p.Kernel.ProbeNeighbor(table[i]) // without CAP_NET_ADMIN the kernel's word is all that there is
		}
	}
	return nil
}

// in finds a target in the kernel's table; -1: it isn't there.
func (t target) in(table []inspect.Neighbor) int {
	return slices.IndexFunc(table, func(n inspect.Neighbor) bool { return n.Addr == t.hop && n.Dev == t.entry.Dev })
}

// silent waits until the kernel has made up its mind about all targets.
func (p *Patient) silent(ctx context.Context, r *round, targets []target) ([]target, error) {
	ctx, cancel := context.WithTimeout(ctx, resolving)
	defer cancel()
	targets, err := p.asked(r, targets)
	if err != nil {
		return nil, err
	}
	if err := p.doubt(r, targets); err != nil {
		return nil, err
	}
	for {
		table, err := p.Kernel.Neighbors()
		if err != nil {
			return nil, err
		}
		silent, open := judge(r, targets, table)
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

// judge tells who is silent, and whether some entries are still being decided.
func judge(r *round, targets []target, table []inspect.Neighbor) (silent []target, open bool) {
	for _, t := range targets {
		if i := t.in(table); i >= 0 {
			t.entry = table[i]
		}
		switch t.entry.State {
		case inspect.Reachable, inspect.Permanent, inspect.NoARP:
		case inspect.Stale, inspect.Delay, inspect.Probe:
			open = open || !r.alive(t.hop)
		case inspect.Incomplete:
			silent, open = append(silent, t), true
		case inspect.Failed:
			if !r.alive(t.hop) {
				silent = append(silent, t)
			}
		}
	}
	return silent, open
}

// silentFindings tells peers that should be there from those that the API server
// misses too, and from a link on which nobody is.
func silentFindings(silent []target, asked int) []problem.Problem {
	var lost, away []target
	for _, t := range silent {
		if t.peer.away {
			away = append(away, t)
		} else {
			lost = append(lost, t)
		}
	}
	var found []problem.Problem
	switch {
	case len(lost) > 1 && len(silent) == asked:
		found = append(found, Fail("no peer at all answers on the link, so no pod of another node can be reached from here", evidence(lost),
			"look at this node's own link: cable, VLAN, the hypervisor's port group, `ip -s link`; and at a firewall that drops ARP or ICMPv6 neighbour discovery"))
	case len(lost) > 0:
		found = append(found, Fail("peers that are ready do not answer ARP or neighbour discovery; their pods can't be reached from here: "+namesOf(lost), evidence(lost),
			"look whether the node still has that address (`ip address` there, `kubectl get node -o wide`), and at the switch, VLAN or security group between the two"))
	}
	if len(away) > 0 {
		found = append(found, Warn("peers are away, as the API server says too (NotReady): "+namesOf(away), evidence(away),
			"bring them back, or delete their Nodes: kubectl delete node NAME; their routes go with them"))
	}
	return found
}

func namesOf(targets []target) string {
	var names []string
	for _, t := range targets {
		names = append(names, t.peer.name)
	}
	return named(names)
}

// evidence gives the entries as ip-neighbour(8) does, the first few.
func evidence(targets []target) string {
	const few = 5
	var lines []string
	for _, t := range targets[:min(few, len(targets))] {
		lines = append(lines, t.entry.String())
	}
	return "ip neigh: " + strings.Join(lines, "; ")
}

// cards looks for MAC addresses that more than one peer has: of cloned machines the
// switch delivers to one or the other.
func cards(ctx context.Context, p *Patient) []problem.Problem {
	if p.Kernel == nil {
		return Skip("the kernel can't be looked at", "")
	}
	if found := p.noPeers(); found != nil {
		return found
	}
	p.visit(ctx)
	table, err := p.Kernel.Neighbors()
	if err != nil {
		return Skip(err.Error(), "")
	}
	own, err := p.Kernel.MACs()
	if err != nil {
		return Skip(err.Error(), "")
	}
	return p.sharedCards(table, own)
}

// card is a MAC address on a link, and who has it.
type card struct {
	dev, mac string
	peers    []string
	addrs    []string
}

func (p *Patient) sharedCards(table []inspect.Neighbor, own map[string]string) []problem.Problem {
	owners := map[netip.Addr]string{}
	for _, one := range p.peers() {
		for _, hop := range one.hops {
			owners[hop] = one.name
		}
	}
	all := cardsOf(table, owners)
	known := 0
	for _, c := range all {
		known += len(c.peers)
	}
	var found []problem.Problem
	for _, c := range all {
		shown := fmt.Sprintf("ip neigh show dev %s: lladdr %s of %s", c.dev, c.mac, named(c.addrs))
		switch {
		case own[c.dev] == c.mac:
			found = append(found, Fail("a peer has the MAC address of this node, as a cloned machine has: "+named(c.peers), shown, cloneCure))
		case len(c.peers) < 2:
		case c.mac == p.routerCard(c.dev, table) || len(c.peers) > 2 && len(c.peers) == known:
			found = append(found, Warn("a router answers for the peers with its own MAC address (proxy ARP, as clouds do), so it sees the packets for their pods", shown,
				"give that router or cloud network a route for each pod subnet, and switch its source and destination checks off; where it drops them, pods of other nodes can't be reached"))
		default:
			found = append(found, Fail("peers have one and the same MAC address, as cloned machines have; packets for one reach the other: "+named(c.peers), shown, cloneCure))
		}
	}
	return found
}

const cloneCure = "give each machine a MAC address of its own in its hypervisor, and a machine ID: rm /etc/machine-id && systemd-machine-id-setup, then reboot it (if one machine answers for the other on purpose, switch its proxy_arp off)"

// cardsOf groups the peers by the MAC address that the kernel knows of them.
func cardsOf(table []inspect.Neighbor, owners map[netip.Addr]string) []card {
	byCard := map[[2]string]*card{}
	for _, n := range table {
		name, ours := owners[n.Addr]
		if !ours || n.MAC == "" || n.State == inspect.Failed {
			continue
		}
		key := [2]string{n.Dev, n.MAC}
		if byCard[key] == nil {
			byCard[key] = &card{dev: n.Dev, mac: n.MAC}
		}
		c := byCard[key]
		c.addrs = append(c.addrs, n.Addr.String())
		if !slices.Contains(c.peers, name) {
			c.peers = append(c.peers, name)
		}
	}
	var all []card
	for _, c := range byCard {
		all = append(all, *c)
	}
	slices.SortFunc(all, func(a, b card) int { return cmp.Or(cmp.Compare(a.dev, b.dev), cmp.Compare(a.mac, b.mac)) })
	return all
}

// routerCard is the MAC address of the default gateway behind a device, if it is known.
func (p *Patient) routerCard(dev string, table []inspect.Neighbor) string {
	for _, r := range p.Host.Routes {
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
