package topology

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"github.com/plainroute/plainroute/pkg/problem"
)

// MainTable is the number of the main routing table (RT_TABLE_MAIN of linux/rtnetlink.h).
const MainTable = 254

// A RouteTable is a routing table other than main, with our routes.
type RouteTable struct {
	Routes []Route `json:"routes"`        // the foreign ones, with one entry for each next hop
	VRF    string  `json:"vrf,omitempty"` // the VRF with this table; empty: none
	// Ruled are the destinations of which policy rules lead all packets to this table before main.
	Ruled []netip.Prefix `json:"ruled,omitempty"`
}

// A TableRoute is a route of ours in another table than --table's. It is comparable.
type TableRoute struct {
	Route
	Table int `json:"table"`
}

// Compare orders routes by their key in the kernel.
func (r TableRoute) Compare(s TableRoute) int {
	return cmp.Or(cmp.Compare(r.Table, s.Table), CompareRoutes(&r.Route, &s.Route))
}

// String returns the route in the syntax of ip-route(8).
func (r TableRoute) String() string { return fmt.Sprintf("%s table %d", r.Route, r.Table) }

// Underlay returns the foreign routes by which this host reaches other nodes: those of the VRF, if
// our routes are in its table, else those of main.
func (h *Host) Underlay() []Route {
	if h.RouteTable != nil && h.RouteTable.VRF != "" {
		return h.RouteTable.Routes
	}
	return h.Routes
}

// Beside returns the foreign routes in the table with our own.
func (h *Host) Beside() []Route {
	if h.RouteTable != nil {
		return h.RouteTable.Routes
	}
	return h.Routes
}

// AllRoutes returns the foreign routes of main and of the table with our own.
func (h *Host) AllRoutes() []Route {
	if h.RouteTable == nil {
		return h.Routes
	}
	return slices.Concat(h.Routes, h.RouteTable.Routes)
}

// routeTableUsed reports whether packets to a subnet are looked up in the table with our routes: by
// main, by a policy rule for a range around the subnet, or by such a route of main into the VRF.
func (b *builder) routeTableUsed(subnet netip.Prefix) bool {
	t := b.host.RouteTable
	around := func(p netip.Prefix) bool { return p.Bits() <= subnet.Bits() && p.Contains(subnet.Addr()) }
	return t == nil || slices.ContainsFunc(t.Ruled, around) ||
		t.VRF != "" && slices.ContainsFunc(b.host.Routes, func(r Route) bool { return r.Dev == t.VRF && around(r.Dst) })
}

// checkRouteTable reports routes that the kernel never looks up, and peers in a VRF of another
// table. A rule for our own subnet that leaves out a peer's is that peer's Problem; a router has no
// subnet, so for it each of them counts.
func (b *builder) checkRouteTable() {
	for _, is4 := range []bool{true, false} {
		unused := func(p netip.Prefix) bool { return p.Addr().Is4() == is4 && !b.routeTableUsed(p) }
		unusedPeer := func(c *claim) bool { return c.dev != "" && unused(c.subnet) }
		if slices.ContainsFunc(b.subnets, unused) || b.opts.Router && slices.ContainsFunc(b.claims, unusedPeer) {
			b.ownProblem(problem.RouteTableUnused, "no policy rule leads %s packets to table %d before the main table, so our routes there have no effect; add one for the range of the pods: ip %srule add to RANGE lookup %d",
				familyName(is4), b.opts.RouteTable, choose(is4, "", "-6 "), b.opts.RouteTable)
		} else {
			b.unusedRoutes(unusedPeer)
		}
		uplink, ok := b.uplinks[is4]
		leaked := slices.ContainsFunc(b.host.Routes, func(r Route) bool { return r.Dev == uplink.Name && r.Dst.Addr().Is4() == is4 })
		if table := cmp.Or(b.opts.RouteTable, MainTable); ok && uplink.VRF != "" && uplink.VRFTable != table && !leaked {
			b.warn(problem.RouteTableUnused, "%s has the %s InternalIP and is in the VRF %s, whose table is %d, and our routes are in table %d; give the agent --table %d, and a policy rule that leads to it",
				uplink.Name, familyName(is4), uplink.VRF, uplink.VRFTable, table, uplink.VRFTable)
		}
	}
}

func (b *builder) unusedRoutes(unused func(*claim) bool) {
	for _, c := range b.claims {
		if unused(c) {
			b.report(c.problem(problem.RouteTableUnused, "no policy rule leads packets to %s to table %d before the main table, so our route there has no effect; add one for the range of all pods",
				c.subnet, b.opts.RouteTable))
		}
	}
}

// bridgeRoutes adds the routes by the bridge to the subnets of pods on this node. The kernel makes
// those of the bridge's addresses in main, after our table, where the unreachable routes to our own
// subnets would hide them. So there is one wherever there may be pods: also while nothing else of the
// bridge is changed, because it was renamed, or no CNI config can be written.
func (b *builder) bridgeRoutes() {
	if b.opts.RouteTable == 0 || b.opts.Router {
		return
	}
	var subnets []netip.Prefix
	if b.desired.CNI != nil {
		subnets = slices.Clone(b.desired.CNI.Subnets)
	}
	for _, r := range b.desired.Routes {
		if r.Metric == MetricOwn && !slices.Contains(subnets, r.Dst) {
			subnets = append(subnets, r.Dst)
		}
	}
	for _, p := range subnets {
		r := b.shared(&Route{Dst: p, Dev: b.podDevice(p), Protocol: Protocol, Metric: MetricBridge})
		taken := slices.ContainsFunc(b.host.Beside(), func(f Route) bool { return f.Dst == p && f.Metric == r.Metric && f.TOS == 0 })
		if taken { // the conflict is reported for the unreachable route
			r = b.yield(r)
		}
		if r != nil && r.Dev != "" {
			b.desired.Routes = append(b.desired.Routes, r)
		}
	}
	slices.SortFunc(b.desired.Routes, CompareRoutes)
}

// podDevice returns the device that leads to pods of a subnet of ours: the bridge, or the bridge of
// another network that has the gateway's address; empty: there is none.
func (b *builder) podDevice(subnet netip.Prefix) string {
	link, as := b.host.linkWith(Gateway(subnet))
	if !as.IsValid() || as.IsSingleIP() {
		link.Name = ""
	}
	return cmp.Or(b.renamed, b.desired.Bridge, link.Name)
}

// elsewhere keeps routes of ours in other tables, from before --table was changed, until those that
// take their place are used. One in main also stays while its Node has no other and still has its
// next hop as an InternalIP, as it would without the change of tables.
func (b *builder) elsewhere() {
	for _, r := range b.actual.Elsewhere {
		replaced := InPlaceOf(b.desired.Routes, &r.Route) != nil
		if replaced && !b.routeTableUsed(r.Dst) || !replaced && r.Table == MainTable && b.stillLeads(&r.Route) {
			b.desired.Elsewhere = append(b.desired.Elsewhere, r)
		}
	}
}

// stillLeads reports whether a route leads to an InternalIP of the Node that has its subnet.
func (b *builder) stillLeads(r *Route) bool {
	c := claimTo(b.claims, r.Dst)
	return c != nil && slices.Contains(c.node.Addrs, r.Via) && b.resolver.excluded(r.Via) == "" && b.opts.allows(pathOf(r))
}
