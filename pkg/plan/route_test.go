package plan

import (
	"net/netip"
	"testing"

	"github.com/plainroute/plainroute/pkg/topology"
)

// While routes of a table are deleted, the unreachable one never takes packets to pods, and the one by
// which the table is recognized as ours is the last.
func TestRouteByTheBridgeIsDeletedLast(t *testing.T) {
	var routes []topology.Route
	var strays []topology.TableRoute
	for _, p := range []string{"10.1.0.0/24", "10.2.0.0/24"} {
		for _, r := range []topology.Route{
			{Dst: netip.MustParsePrefix(p), Metric: topology.MetricBridge, Dev: topology.Bridge},
			{Dst: netip.MustParsePrefix(p), Metric: topology.MetricOwn, Type: topology.Unreachable},
		} {
			routes, strays = append(routes, r), append(strays, topology.TableRoute{Route: r, Table: 100})
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
