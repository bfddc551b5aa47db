package doctor

import (
	"net/netip"
	"slices"
	"testing"

	rtnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/plainroute/plainroute/pkg/inspect"
	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/status"
	"github.com/plainroute/plainroute/pkg/topology"
	"github.com/plainroute/plainroute/test/testutil"
)

// byTunnel has the node's routes to the pods of Node n lead into tunnels to its InternalIPs.
func (l *lan) byTunnel(n int) {
	l.t.Helper()
	for _, r := range l.state.Routes {
		if r.Dst != prefixes(n)[0] && r.Dst != prefixes(n)[1] {
			continue
		}
		dev := topology.Tunnel4
		if r.Dst.Addr().Is6() {
			dev = topology.Tunnel6
		}
		mac := topology.TunnelMAC(r.Dst)
		l.state.FDB = append(l.state.FDB, topology.FDBEntry{Dev: dev, MAC: mac, Dst: r.Via})
		r.Via, r.Dev = topology.TunnelGateway(r.Dst), dev
	}
}

// The path between the ends of a tunnel has to carry pods' packets with what the tunnel adds, in each family.
func TestPathOfATunnel(t *testing.T) {
	l := newLAN(t)
	l.peer(2)
	l.byTunnel(2)
	l.state.CNI.MTU = 1430
	well(t, runCheck(t, "path-mtu", l.target()))
	l.state.CNI.MTU = 1440 // with 50 bytes of IPv4 it fits, with 70 of IPv6 it does not
	finds(t, runCheck(t, "path-mtu", l.target()), problem.Warning, "packets of 1510 bytes, of which the tunnel adds 70, which exceeds the MTU of this node's own link", "towards node2")
}

func TestPathOfATunnelDropsLargePackets(t *testing.T) {
	l := newLAN(t)
	l.peer(2)
	l.peer(3)
	l.byTunnel(3)
	l.state.CNI.MTU = 1430
	port, err := l.nl.LinkByName("to-node3")
	l.must(err)
	l.must(l.nl.LinkSetMTU(port, 1490)) // which takes IPv4's
	finds(t, runCheck(t, "path-mtu", l.target()), problem.Error, "as large as pods send, 1500 bytes, of which the tunnel adds 70", "node3", "fd00:192:168:1::13 answers packets of 64 bytes")
}

// Where nodes answer and their tunnels do not, a firewall drops UDP to the tunnel's port.
func TestTunnelIsBlocked(t *testing.T) {
	l := newLAN(t)
	l.peer(2)
	m := l.peer(3)
	l.byTunnel(3)
	for _, p := range prefixes(3) {
		dst, err := rtnl.ParseIPNet(p.String())
		l.must(err)
		l.must(m.nl.RouteReplace(&rtnl.Route{Dst: dst, Type: unix.RTN_BLACKHOLE}))
	}
	finds(t, runCheck(t, "pod-packets", l.target()), problem.Warning, "by the tunnel do not arrive", "node3", "192.168.1.13 answers, 10.244.3.1 behind it does not", "--vxlan-port")
}

// Without Nodes, the agent's report names the InternalIPs, also of IPv6, where the next hop of a tunnel is link-local.
func TestPeersOfTunnels(t *testing.T) {
	l := newLAN(t)
	l.peer(2)
	l.byTunnel(2)
	p := l.target()
	want := []podPath{{prefixes(2)[0], netip.MustParseAddr("192.168.1.12"), 50}, {prefixes(2)[1], netip.MustParseAddr("fd00:192:168:1::12"), 70}}
	p.Report = &status.Report{}
	for i, path := range want {
		p.Report.Peers = append(p.Report.Peers, status.Peer{Node: "node2", Subnet: path.subnet, Via: l.state.Routes[i].Via, InternalIP: path.hop})
	}
	for range 2 {
		if peers := p.peers(); len(peers) != 1 || !slices.Equal(peers[0].paths, want) {
			t.Errorf("got %+v; want %+v", peers, want)
		}
		p.Nodes, p.State.FDB = nil, nil
	}
}

// A bridge without ports has an MTU of 1500, whatever the first pod gets.
func TestBridgeWithoutPods(t *testing.T) {
	w := newTestbed(t)
	w.Report.Host.MTU = 9000
	w.finds("bridge-address", problem.None)
	w.sh("ip link add veth1 mtu 8000 type veth peer name other; ip link set veth1 master plainroute0 up")
	w.look()
	found := runCheck(t, "bridge-address", w.Target)
	if !slices.ContainsFunc(found, func(p problem.Problem) bool {
		return p.Evidence == "plainroute0 has an MTU of 8000, and new pods have 9000"
	}) {
		t.Errorf("got %+v", found)
	}
}

// Pods keep the MTU that they were made with.
func TestPodsOfTwoMTUs(t *testing.T) {
	w := newTestbed(t)
	w.sh(`for i in 1 2; do ip link add veth$i type veth peer name pod$i; ip link set veth$i master plainroute0 up; ip link set pod$i up
		bridge link set dev veth$i hairpin on; done`)
	testutil.AwaitTrue(t, "both ports forward", func() bool {
		ports, err := w.Kernel.Ports(topology.Bridge)
		w.must(err)
		return len(ports) == 2 && ports[0].State == inspect.PortForwarding && ports[1].State == inspect.PortForwarding
	})
	w.look()
	w.finds("bridge-address", problem.None)
	w.Report.Host.MTU = 1430
	w.sh("ip link set veth2 mtu 1430")
	if found := w.finds("bridge-address", problem.Warning); found.Evidence != "new pods have an MTU of 1430; ip link shows veth1 mtu 1500" {
		t.Errorf("got %+v", found)
	}
}

// A router that does not answer is reported for the peers behind it, whatever path leads there.
func TestRouterDoesNotAnswer(t *testing.T) {
	l := newLAN(t)
	l.addNode(2)
	l.nodes[1].Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.168.2.12"}}
	l.nodes[1].Spec.PodCIDRs = l.nodes[1].Spec.PodCIDRs[:1]
	l.must(addRoute(l.nl, "192.168.2.0/24", "192.168.1.1", 4))
	l.state.Routes = []*topology.Route{{Dst: prefixes(2)[0], Via: netip.MustParseAddr("192.168.1.1"), Dev: "lan0", OnLink: true, Protocol: topology.Protocol, Metric: topology.PeerMetric(prefixes(2)[0])}}
	finds(t, runCheck(t, "neighbors", l.target()), problem.Error, "node2", "192.168.1.1 dev lan0")
	router := l.machine("router", mac(1))
	addAddrs(t, router.nl, "eth0", "192.168.1.1/24")
	well(t, runCheck(t, "neighbors", l.target()))
}
