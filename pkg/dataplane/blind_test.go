package dataplane

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	rtnl "github.com/vishvananda/netlink"

	"github.com/plainroute/plainroute/pkg/plan"
	"github.com/plainroute/plainroute/pkg/topology"
)

// While a route stays because its deletion failed, its destination and next hop stay in the sets:
// else a flow that still takes the route would be masqueraded.
func TestFailedDeletionKeepsSets(t *testing.T) {
	m := newMachine(t)
	m.settle(nodes(3))
	gone := nodes(3)[2]
	stays := topology.Route{Dst: gone.PodCIDRs[0], Via: gone.Addrs[0], Dev: "missing", Protocol: topology.Protocol, Metric: topology.PeerMetric(gone.PodCIDRs[0])}
	narrowed := sets(plan.Delete, plan.SetChange{DeleteNodes: gone.Addrs[:1], DeleteCluster: gone.PodCIDRs[:1]})
	c := routes(plan.Delete, stays).With(narrowed...)
	route := new(RouteError)
	if err := m.Apply(t.Context(), c); !errors.As(err, &route) || route.Op != "deleting" {
		t.Fatalf("got %v", err)
	}
	if have := m.table(); !slices.Contains(have.Nodes, gone.Addrs[0]) || !slices.Contains(have.Cluster, gone.PodCIDRs[0]) {
		t.Errorf("narrowed although the deletion failed: %+v", have)
	}
	c = c.With(plan.Of(plan.Delete, plan.Table{})...)
	if err := m.Apply(t.Context(), c); err == nil {
		t.Fatal("the deletion has not failed")
	}
	if m.table() == nil {
		t.Error("the table is gone although a deletion failed")
	}
	c = c.Except(plan.KindRoute)
	m.must(m.Apply(t.Context(), c))
	if m.table() != nil {
		t.Error("the table is there although nothing has failed")
	}
}

// A table that could not be replaced is not narrowed, because its sets may be the old ones.
func TestFailedTableKeepsSets(t *testing.T) {
	m := newMachine(t)
	m.settle(nodes(3))
	gone := nodes(3)[2].Addrs[0]
	nobody := netip.MustParseAddr("192.168.77.77")
	err := m.Apply(t.Context(), sets(plan.Add, plan.SetChange{DeleteNodes: []netip.Addr{nobody}}). // which the kernel refuses: it is not there
													With(sets(plan.Delete, plan.SetChange{DeleteNodes: []netip.Addr{gone}})...))
	if err == nil {
		t.Fatal("the kernel deletes an element that is not there")
	}
	if have := m.table(); !slices.Contains(have.Nodes, gone) {
		t.Errorf("narrowed although widening failed: %+v", have)
	}
}

// A setting that takes any value and keeps none, as under a sandbox's mount, has failed.
func TestSettingIsReadBack(t *testing.T) {
	m := newMachine(t)
	m.settle(nodes(2))
	m.cfg.ProcSys = filepath.Join(m.dir, "masked")
	file := m.sysctlFile(topology.SysctlForward4)
	m.must(os.MkdirAll(filepath.Dir(file), 0o755))
	for _, target := range []string{"/dev/null", "/proc/self/clear_refs"} { // the second can't be read
		m.must(os.Symlink(target, file))
		m.sysctls[topology.SysctlForward4] = "1"
		err := m.Apply(t.Context(), plan.Of(plan.Replace, plan.Sysctl{Path: topology.SysctlForward4, Value: "1"}))
		part := new(PartError)
		if !errors.As(err, &part) || part.Key != (plan.Key{Kind: plan.KindSysctl, Name: topology.SysctlForward4}) || !strings.Contains(err.Error(), `the value is "" still`) {
			t.Errorf("%s: got %v", target, err)
		}
		if have := m.sysctls[topology.SysctlForward4]; have != "" {
			t.Errorf("%s: it counts as %q", target, have)
		}
		m.must(os.Remove(file))
	}
}

// A deletion of ours takes no route of another protocol that has come to be in its place, the same
// in all else.
func TestDeletionSparesOtherProtocols(t *testing.T) {
	m := newMachine(t)
	m.settle(nodes(2))
	for _, ours := range m.ours() {
		if ours.Gw == nil {
			continue
		}
		m.must(m.nl.RouteDel(&ours))
		theirs := ours
		theirs.Protocol = 4
		m.must(m.nl.RouteAdd(&theirs))
		dst, _ := netip.ParsePrefix(ours.Dst.String())
		via, _ := netip.AddrFromSlice(ours.Gw)
		mine := topology.Route{Dst: dst, Via: via.Unmap(), Dev: "eth0", Protocol: topology.Protocol, Metric: uint32(ours.Priority)}
		m.must(m.Apply(t.Context(), routes(plan.Delete, mine)))
		if left, err := m.nl.RouteListFiltered(rtnl.FAMILY_ALL, &rtnl.Route{Dst: ours.Dst}, rtnl.RT_FILTER_DST); err != nil || len(left) != 1 {
			t.Errorf("of %s there are %v (%v)", ours.Dst, left, err)
		}
	}
}
