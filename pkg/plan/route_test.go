package plan

import (
	"net/netip"
	"testing"

	"github.com/plainroute/plainroute/pkg/topology"
)

// While routes of a table are deleted, the unreachable one never takes packets to pods, and the one by
// which the table is recognized as ours is the last.
func TestRouteByTheBridgeIsDeletedLast(t *testing.T) {
	var routes []*topology.Route
	var strays []topology.TableRoute
	for _, p := range []string{"10.1.0.0/24", "10.2.0.0/24"} {
		for _, r := range []topology.Route{
			{Dst: netip.MustParsePrefix(p), Metric: topology.MetricBridge, Dev: topology.Bridge},
			{Dst: netip.MustParsePrefix(p), Metric: topology.MetricOwn, Type: topology.Unreachable},
		} {
			routes, strays = append(routes, &r), append(strays, topology.TableRoute{Route: r, Table: 100})
		}
	}
	for name, actual := range map[string]topology.State{"ours": {Routes: routes, RouteTable: 100}, "strays": {Elsewhere: strays}} {
		c := Diff(topology.State{}, actual)
		if len(c) != len(routes) {
			t.Fatalf("%s: %v", name, c)
		}
		for i, x := range c {
			r, ours := x.Object.(Route)
			if !ours {
				r.Route = x.Object.(StrayRoute).Route
			}
			if byBridge := r.Metric == topology.MetricBridge; byBridge != (i >= len(c)/2) {
				t.Errorf("%s: %s is deletion %d of %d", name, x, i+1, len(c))
			}
		}
	}
}

// Routes in another table stay if a device of ours failed, but not if a setting did.
func TestStraysWaitForDevices(t *testing.T) {
	stray := Change{Delete, StrayRoute{topology.TableRoute{Table: 100}}}
	for name, c := range map[string]struct {
		object Object
		left   int
	}{
		"a setting": {Sysctl{Path: topology.SysctlForward4, Value: "1"}, 1},
		"a device":  {Device{Device: topology.Device{Name: topology.Bridge}}, 0},
		"a route":   {Route{Route: topology.Route{Metric: topology.MetricPeer}}, 0},
	} {
		failed := Change{Replace, c.object}
		if got := (Changes{failed, stray}).Without(func(k Key) bool { return k == failed.Key() }); len(got) != c.left {
			t.Errorf("%s failed: %v is left, want %d", name, got, c.left)
		}
	}
}
