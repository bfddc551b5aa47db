package dataplane

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	rtnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/plan"
	"github.com/plainroute/plainroute/pkg/topology"
)

// anyTable is RT_TABLE_UNSPEC of linux/rtnetlink.h: in a dump it stands for all tables.
const anyTable = unix.RT_TABLE_UNSPEC

// table returns the number of the table with our routes.
func (k *Kernel) table() uint32 { return tableNumber(k.cfg.RouteTable) }

func tableNumber(table int) uint32 { return uint32(cmp.Or(table, topology.MainTable)) }

// putTable puts a table into struct rtmsg at the beginning of a message, or, if its number does not
// fit there, appends it as an attribute.
func putTable(message []byte, at int, table uint32) []byte {
	if table > 255 {
		return appendNumber(message, unix.RTA_TABLE, int(table))
	}
	message[at] = byte(table)
	return message
}

// findStrays reads our routes in all other tables, where a run with another --table has left them.
// If there are none, it does so once. A program may have copied routes of main, with their marks, into
// other tables, so one of these counts only if it has a route by the bridge, which main never has.
func (k *Kernel) findStrays(links *linkFacts) error {
	if k.searched && len(k.strays) == 0 {
		return nil
	}
	strays, err := RetryDump(func() (found []topology.TableRoute, err error) {
		err = k.dump(anyTable, topology.Protocol, func(m *message) {
			if m.mine() && m.table != k.table() {
				found = append(found, topology.TableRoute{Route: m.route(links), Table: int(m.table)})
			}
		})
		return found, err
	})
	if err != nil {
		return fmt.Errorf("listing routes of all tables: %w", err)
	}
	used := map[int]bool{topology.MainTable: true}
	for _, r := range strays {
		used[r.Table] = used[r.Table] || r.Metric == topology.MetricBridge
	}
	strays = slices.DeleteFunc(strays, func(r topology.TableRoute) bool { return !used[r.Table] })
	slices.SortFunc(strays, topology.TableRoute.Compare)
	k.strays, k.searched = strays, true
	return nil
}

// deleteStrays deletes routes of ours in other tables.
func (k *Kernel) deleteStrays(strays []plan.StrayRoute) error {
	k.fresh.routes = false // they are read again until there are none
	var errs []error
	for batch := range slices.Chunk(strays, perSend) {
		routes := make([]plan.Route, len(batch))
		for i, r := range batch {
			routes[i] = plan.Route{Route: r.Route, Table: r.Table}
		}
		for i, err := range k.send(operations[plan.Delete], routes) {
			if err != nil {
				errs = append(errs, part(batch[i], fmt.Errorf("deleting route %q: %w", batch[i], err)))
			}
		}
	}
	return errors.Join(errs...)
}

// loadRules reads the destinations of which policy rules lead to our table, if that is not main.
func (k *Kernel) loadRules() error {
	k.ruled = nil
	if k.cfg.RouteTable == 0 {
		return nil
	}
	for _, all := range []netip.Prefix{all4, all6} {
		family := rtnl.FAMILY_V4
		if all == all6 {
			family = rtnl.FAMILY_V6
		}
		rules, err := RetryDump(func() ([]rtnl.Rule, error) { return k.handle.RuleList(family) })
		if err != nil && !absent(err) {
			return fmt.Errorf("listing policy rules: %w", err)
		}
		k.ruled = append(k.ruled, ledTo(rules, k.cfg.RouteTable, all)...)
	}
	return nil
}

// The destinations of rules without one.
var all4, all6 = netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)

// ledTo returns the destinations of which rules lead to a table before the rule that leads all packets
// to main. Rules that select packets by anything else don't count. The rules are in the kernel's order.
func ledTo(rules []rtnl.Rule, table int, all netip.Prefix) (led []netip.Prefix) {
	for _, r := range rules {
		switch {
		case !selectsAllTo(r):
		case r.Table == topology.MainTable && r.Dst == nil:
			return led
		case r.Table == table && r.Dst == nil:
			led = append(led, all)
		case r.Table == table:
			addr, _ := netip.AddrFromSlice(r.Dst.IP)
			bits, _ := r.Dst.Mask.Size()
			led = append(led, netip.PrefixFrom(addr.Unmap(), bits))
		}
	}
	return led
}

// selectsAllTo reports whether a rule is for all packets to its destination, and takes each route of
// its table.
func selectsAllTo(r rtnl.Rule) bool {
	return r.Src == nil && r.IifName == "" && r.OifName == "" && r.Mark == 0 && (r.Mask == nil || *r.Mask == 0) && r.Tos == 0 && r.IPProto == 0 &&
		r.Sport == nil && r.Dport == nil && r.UIDRange == nil && r.TunID == 0 && r.SuppressPrefixlen < 0 && r.SuppressIfgroup < 0 && !r.Invert
}

// routeTable returns our table for a Host, or nil if it is main.
func (k *Kernel) routeTable() *topology.RouteTable {
	if k.cfg.RouteTable == 0 {
		return nil
	}
	t := &topology.RouteTable{Routes: k.routes.beside, Ruled: k.ruled}
	for name, table := range k.links.vrfs {
		if table == k.table() {
			t.VRF = name
		}
	}
	return t
}
