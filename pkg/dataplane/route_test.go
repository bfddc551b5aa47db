package dataplane

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	rtnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/plan"
	"github.com/plainroute/plainroute/pkg/topology"
	"github.com/plainroute/plainroute/test/seccomp"
)

// peerRoute is a route of ours by eth0.
func peerRoute(dst, via string) topology.Route {
	return topology.Route{Dst: netip.MustParsePrefix(dst), Via: netip.MustParseAddr(via), Dev: "eth0", Protocol: topology.Protocol, Metric: topology.PeerMetric(netip.MustParsePrefix(dst))}
}

// Routes are sorted by destination, which the kernel's are not: of two that begin alike it gives
// the longer one first. One of our protocol with another metric is not ours.
func TestRoutesOfOursAreSorted(t *testing.T) {
	m := newMachine(t)
	m.settle(nodes(2))
	wide, narrow := peerRoute("10.128.76.0/23", "192.168.1.77"), peerRoute("10.128.76.0/24", "192.168.1.78")
	m.must(m.Apply(t.Context(), routes(plan.Add, narrow, wide)))
	m.route("10.128.79.0/24", "192.168.1.79", "eth0", 77, topology.Protocol)
	want := slices.Clone(m.observe().Routes)
	if !slices.Contains(values(want), wide) || !slices.IsSortedFunc(want, topology.CompareRoutes) {
		t.Fatalf("what was written counts as %v", want)
	}
	for _, fresh := range []freshness{{}, {routes: true}} {
		m.fresh = fresh
		if got := m.observe().Routes; !slices.Equal(got, want) {
			t.Errorf("with %+v fresh, got %v, want %v", fresh, got, want)
		}
	}
}

// Next hops that are objects are read once routes name some, and if they can't be, that is
// reported. A kernel that has none refuses to list them.
func TestNextHopsAreReadWhereRoutesNameThem(t *testing.T) {
	m := newMachine(t)
	m.settle(nodes(2))
	m.nextHop(1, "192.168.1.71")
	r := seccomp.NewRefuser(t)
	r.Requests(unix.ENOMEM, unix.RTM_GETNEXTHOP)
	m.Forget()
	m.facts(nodes(2))
	m.routeByObject("10.128.77.0/24", 1)
	m.Forget()
	if _, err := m.Observe(t.Context()); !errors.Is(err, unix.ENOMEM) || !strings.Contains(err.Error(), "listing routes: listing next hops: ") {
		t.Errorf("without next hops: %v", err)
	}
	r.Requests(unix.EOPNOTSUPP, unix.RTM_GETNEXTHOP)
	m.facts(nodes(2))
	r.Nothing()
	m.Forget()
	if routes := m.facts(nodes(2)); !slices.Contains(routes, "10.128.77.0/24 via 192.168.1.71 dev eth0 proto 186") {
		t.Errorf("the route is not among %q", routes)
	}
}

// A link with a route by advertisement counts as receiving them, also after the route has gone, and
// when it is recreated.
func TestLinksWithAdvertisements(t *testing.T) {
	m := newMachine(t)
	m.needIPv6()
	m.addVeth("eth1", 1500)
	m.addr("eth1", "192.168.7.11/24")
	received := func() (names []string) {
		m.Forget()
		host, err := m.Facts(t.Context(), nil)
		m.must(err)
		for _, l := range host.Links {
			if l.RouterAdvertised {
				names = append(names, l.Name)
			}
		}
		return names
	}
	advertised := m.foreign("2001:db8::/48", "", "eth1", 0, unix.RTPROT_RA)
	m.must(m.nl.RouteAdd(&rtnl.Route{Dst: m.foreign("172.24.0.0/16", "", "eth0", 0, 4).Dst, Type: unix.RTN_BLACKHOLE}))
	if got := received(); len(got) > 0 {
		t.Errorf("before any advertisement %q have received one", got)
	}
	m.must(m.nl.RouteAdd(advertised))
	for _, after := range []string{"the advertisement", "the route was deleted"} {
		if after != "the advertisement" {
			m.must(m.nl.RouteDel(advertised))
		}
		if got := received(); !slices.Equal(got, []string{"eth1"}) {
			t.Errorf("after %s %q have received advertisements, want eth1", after, got)
		}
	}
	m.must(m.nl.LinkDel(m.link("eth1")))
	m.addVeth("eth1", 1500)
	if got := received(); !slices.Equal(got, []string{"eth1"}) {
		t.Errorf("recreated, %q have received advertisements, want eth1", got)
	}
}

// A route with our marks that another program added without a gateway has a scope that ours never
// have, and is deleted all the same.
func TestRouteOfOurMarksWithinALinkIsDeleted(t *testing.T) {
	m := newMachine(t)
	m.settle(nodes(2))
	r := m.foreign("10.128.77.0/24", "", "eth0", int(topology.PeerMetric(netip.MustParsePrefix("10.128.77.0/24"))), topology.Protocol)
	r.Scope = unix.RT_SCOPE_LINK
	m.must(m.nl.RouteAdd(r))
	m.settle(nodes(2))
	if got := len(m.ours()); got != 2*m.families() {
		t.Errorf("%d routes of ours are there, want %d", got, 2*m.families())
	}
}

// Errors that mean that there is nothing to read don't fail a read.
func TestRefusedRoutesAreReported(t *testing.T) {
	m := newMachine(t)
	m.settle(nodes(2))
	r := seccomp.NewRefuser(t)
	for errno, reported := range map[unix.Errno]bool{unix.EAFNOSUPPORT: false, unix.EOPNOTSUPP: false, unix.ENOENT: false, unix.ENOMEM: true} {
		for _, fresh := range []freshness{{}, {routes: true}} {
			r.Requests(errno, unix.RTM_GETROUTE)
			m.fresh = fresh
			_, err := m.Observe(t.Context())
			if errors.Is(err, errno) != reported || (err != nil) != reported || reported && !strings.Contains(err.Error(), ": family 2: ") {
				t.Errorf("after %v, with %+v fresh: %v", errno, fresh, err)
			}
		}
	}
}
