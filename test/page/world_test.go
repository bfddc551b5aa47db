package page

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/status"
	"github.com/plainroute/plainroute/pkg/topology"
	"github.com/plainroute/plainroute/pkg/web"
)

func subnet(i int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(128 + i>>8), byte(i), 0}), 24)
}

func address(i int) netip.Addr { return netip.AddrFrom4([4]byte{192, 168, byte(i >> 8), byte(i)}) }

// result is the report of node-1's agent among so many Nodes, all of them well.
func result(nodes int) *status.Result {
	now := time.Now().UTC()
	r := &status.Result{
		Version: "v1.2.3", Node: "node-1", Ready: true, Seen: true, Known: true,
		Host: status.Host{
			Addresses: []netip.Addr{address(1)}, Subnets: []netip.Prefix{subnet(1)}, Uplinks: []status.Uplink{{Name: "eth0", MTU: 1500}},
			MTU: 1500, Encapsulation: "never", Bridge: "plainroute0", Ports: 23, Config: "/etc/cni/net.d/10-plainroute.conflist",
		},
		API:     status.API{Synced: true, LastEvent: now.Add(-6 * time.Second)},
		Pass:    status.Pass{Number: 40, Time: now.Add(-8 * time.Second), Duration: 1500 * time.Microsecond},
		History: &status.History{},
	}
	for i := 1; i <= nodes; i++ {
		r.Nodes = append(r.Nodes, &topology.Node{Name: fmt.Sprintf("node-%d", i), PodCIDRs: []netip.Prefix{subnet(i)}, Addrs: []netip.Addr{address(i)}})
		if i > 1 {
			r.Desired.Routes = append(r.Desired.Routes, &topology.Route{Dst: subnet(i), Via: address(i), Dev: "eth0", Protocol: topology.Protocol, Metric: topology.PeerMetric(subnet(i))})
		}
	}
	for i := range 32 {
		r.Passes = append(r.Passes, status.Pass{
			Number: int64(40 - i), Time: now.Add(-time.Duration(8+60*i) * time.Second), Duration: time.Duration(900+(i*i*37)%1400) * time.Microsecond, Changes: i % 7 / 5,
		})
	}
	r.History.Note(r, r, status.Touched{})
	return r
}

// tunneling is the report of node-1's agent among three Nodes, of which node-3 is behind a router.
func tunneling() *status.Result {
	r := result(3)
	r.Nodes[2].Addrs = []netip.Addr{netip.MustParseAddr("192.168.9.3")}
	r.Host.Encapsulation = topology.EncapsulateCrossSubnet
	lan, all := netip.PrefixFrom(address(0), 24), netip.MustParsePrefix("0.0.0.0/0")
	r.Desired, r.Problems = topology.Desired(
		topology.Options{NodeName: "node-1", Bridge: topology.Bridge, Encapsulation: topology.EncapsulateCrossSubnet, VNI: 112, VXLANPort: 4789},
		topology.Host{
			Links:  []topology.Link{{Name: "eth0", MTU: 1500, Addrs: []netip.Prefix{netip.PrefixFrom(address(1), 24)}}},
			Routes: []topology.Route{{Dst: lan, Dev: "eth0", Protocol: 2}, {Dst: all, Via: address(254), Dev: "eth0"}},
		}, r.Nodes, topology.State{})
	return r
}

// blame adds a Problem of a peer.
func blame(r *status.Result, node int, reason problem.Reason, detail string) {
	r.Problems = append(r.Problems, problem.Problem{Subject: problem.Node(fmt.Sprintf("node-%d", node)), Reason: reason, Message: detail})
}

// broken is a cluster with a peer in each state, and a route that the kernel has lost.
func broken(nodes int) (*status.Result, status.Observe) {
	r := result(nodes)
	r.Ready = false
	r.Problems = append(r.Problems, problem.Problem{Reason: problem.SettingFailed, Message: "net/ipv4/ip_forward is 0 and can't be set: read-only file system", BlocksReady: true})
	blame(r, 3, problem.RouteConflict, `the kernel prefers "10.128.3.0/24 dev lo proto 3 metric 5", which is not ours, to "10.128.3.0/24 via 192.168.0.3 dev eth0 proto 112 metric 2185"; remove it if nothing needs it`)
	blame(r, 4, problem.RouteFailed, "adding the route 10.128.4.0/24 via 192.168.0.4 dev eth0: invalid argument")
	for i := 5; i < min(nodes, 17); i++ {
		blame(r, i, problem.PodCIDRRefused, "podCIDR "+subnet(i).String()+" is outside of --cluster-cidr")
	}
	missing := r.Desired.Routes[0]
	return r, func() (topology.State, error) {
		actual := r.Desired
		actual.Routes = nil
		for _, route := range r.Desired.Routes {
			if route.Dst != missing.Dst {
				actual.Routes = append(actual.Routes, route)
			}
		}
		actual.Sysctls = map[string]string{}
		return actual, nil
	}
}

// agent serves a Result as an agent does.
func agent(r *status.Result, look status.Observe) *status.Server {
	s := &status.Server{Latest: &status.Latest{}, Healthy: func() error { return nil }, Metrics: prometheus.NewRegistry(), Status: true, Observe: look, Page: web.NodePage}
	s.Latest.Publish(r)
	return s
}
