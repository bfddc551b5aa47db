package doctor

import (
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	rtnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/topology"
)

// A switch's port with a smaller MTU drops silently: connections open, and hang.
func TestPathDropsLargePackets(t *testing.T) {
	l := newLAN(t)
	l.peer(2)
	l.peer(3)
	port, err := l.nl.LinkByName("to-node3")
	l.must(err)
	l.must(l.nl.LinkSetMTU(port, 1400))
	found := runCheck(t, "path-mtu", l.target())
	finds(t, found, problem.Error, "node3", "1500 bytes", "hang")
}

// A lost or rate-limited answer is not reported: suspects are probed again.
func TestPathDroppedOnce(t *testing.T) {
	l := newLAN(t)
	l.peer(2)
	port, err := l.nl.LinkByName("to-node2")
	l.must(err)
	l.must(l.nl.LinkSetMTU(port, 1400))
	p := l.target()
	p.sweepPeers(t.Context())
	l.must(l.nl.LinkSetMTU(port, 1500))
	well(t, runCheck(t, "path-mtu", p))
}

// Pods obey a router's ICMP error.
func TestPathMTUIsSmall(t *testing.T) {
	l := newLAN(t)
	router := l.machine("router", mac(1))
	addAddrs(t, router.nl, "eth0", "192.168.1.1/24")
	router.sysctl("net/ipv4/ip_forward", "1")
	far := l.namespace("far")
	l.must(router.nl.LinkAdd(&rtnl.Veth{LinkAttrs: rtnl.LinkAttrs{Name: "far0", MTU: 1400}, PeerName: "eth0", PeerNamespace: rtnl.NsFd(int(far.fd))}))
	addAddrs(t, router.nl, "far0", "192.168.2.1/24")
	addAddrs(t, far.nl, "eth0", "192.168.2.12/24")
	l.must(addRoute(far.nl, "192.168.1.0/24", "192.168.2.1", 4))
	l.must(addRoute(l.nl, "192.168.2.0/24", "192.168.1.1", 4))
	n := l.addNode(2)
	n.Status.Addresses = n.Status.Addresses[:1]
	n.Status.Addresses[0].Address = "192.168.2.12"
	n.Spec.PodCIDRs = n.Spec.PodCIDRs[:1]
	finds(t, runCheck(t, "path-mtu", l.target()), problem.Warning, "node2", "192.168.1.1 reports", "mtu 1400", "--mtu=1400")
}

func TestPodsSendMoreThanTheLinkTakes(t *testing.T) {
	l := newLAN(t)
	l.peer(2)
	link, err := l.nl.LinkByName("lan0")
	l.must(err)
	l.must(l.nl.LinkSetMTU(link, 1450))
	finds(t, runCheck(t, "path-mtu", l.target()), problem.Warning, "this node's own link", "has an MTU of 1450")
}

// A route's own MTU limits the path, whatever the link's MTU is.
func TestRouteOfSmallerMTU(t *testing.T) {
	l := newLAN(t)
	l.peer(2)
	link, err := l.nl.LinkByName("lan0")
	l.must(err)
	addr, err := rtnl.ParseIPNet("192.168.1.12/32")
	l.must(err)
	l.must(l.nl.RouteAdd(&rtnl.Route{LinkIndex: link.Attrs().Index, Dst: addr, MTU: 1300}))
	finds(t, runCheck(t, "path-mtu", l.target()), problem.Warning, "ip route get 192.168.1.12: mtu 1300")
}

// If a firewall drops datagrams, the check is skipped and does not pass.
func TestNoPeerAnswersDatagrams(t *testing.T) {
	l := newLAN(t)
	m := l.peer(2)
	m.noAnswers()
	us, err := rtnl.ParseIPNet("fd00:192:168:1::11/128")
	l.must(err)
	l.must(m.nl.RouteAdd(&rtnl.Route{Dst: us, Type: unix.RTN_BLACKHOLE}))
	p := l.target()
	finds(t, runCheck(t, "path-mtu", p), problem.Unknown, "no peer answers datagrams", "port 9")
	finds(t, runCheck(t, "pod-packets", p), problem.Unknown, "no peer answers datagrams")
}

// A cloud that delivers only what is addressed to the machine itself.
func TestPodPacketsAreDropped(t *testing.T) {
	l := newLAN(t)
	l.peer(2)
	m := l.peer(3)
	l.nodes[0].Spec.ProviderID = "aws:///eu-west-1a/i-0123"
	for _, p := range prefixes(3) {
		dst, err := rtnl.ParseIPNet(p.String())
		l.must(err)
		l.must(m.nl.RouteReplace(&rtnl.Route{Dst: dst, Type: unix.RTN_BLACKHOLE}))
	}
	finds(t, runCheck(t, "pod-packets", l.target()), problem.Warning, "node3", "10.244.3.1 behind it does not", "--no-source-dest-check")
}

// A router of this node without routes to the pods, as a cloud's is.
func TestRouterRefusesPodPackets(t *testing.T) {
	l := newLAN(t)
	router := l.machine("router", mac(1))
	addAddrs(t, router.nl, "eth0", "192.168.1.1/24")
	router.sysctl("net/ipv4/ip_forward", "1")
	l.peer(2)
	for i, s := range prefixes(2)[:1] {
		dst, err := rtnl.ParseIPNet(s.String())
		l.must(err)
		l.must(l.nl.RouteReplace(&rtnl.Route{Dst: dst, Gw: []byte{192, 168, 1, 1}, Protocol: topology.Protocol}))
		l.nodes[1].Spec.PodCIDRs = l.nodes[1].Spec.PodCIDRs[:i+1]
	}
	p := l.target()
	p.Host.Routes = []topology.Route{{Via: netip.MustParseAddr("192.168.1.1"), Dev: "lan0"}}
	finds(t, runCheck(t, "pod-packets", p), problem.Warning, "node2", "192.168.1.1 answers: network is unreachable")

	// A foreign route is reported by another check.
	p.Host.Routes = append(p.Host.Routes, topology.Route{Dst: prefixes(2)[0], Via: netip.MustParseAddr("192.168.1.1"), Dev: "lan0"})
	finds(t, runCheck(t, "pod-packets", p), problem.Unknown, "by a route of ours")
}

// The rate of answers is limited, so unanswered probes are sent again.
func TestAnswersAreRateLimited(t *testing.T) {
	l := newLAN(t)
	l.peer(2)
	p := l.target()
	for range 3 {
		q := probe{prefixes(2)[0].Addr().Next(), smallSize}
		if _, err := sendProbes(t.Context(), []probe{q}, resendAfter/2); err != nil {
			t.Fatal(err)
		}
	}
	well(t, runCheck(t, "pod-packets", p))
	well(t, runCheck(t, "path-mtu", p))
}

// Peers behind one router have the same next hop, which limits the rate of its answers.
func TestNextHopIsProbedOnce(t *testing.T) {
	l := newLAN(t)
	l.peer(2)
	q := probe{netip.MustParseAddr("192.168.1.12"), smallSize}
	before := packetsSent(t, "lan0")
	results, err := sendProbes(t.Context(), slices.Repeat([]probe{q}, 64), 30*resendAfter)
	if err != nil || !results[q].reached {
		t.Errorf("the result is %+v; %v", results[q], err)
	}
	if sent := packetsSent(t, "lan0") - before; sent > 32 { // with neighbor discovery, and repetitions on a busy machine
		t.Errorf("%d packets were sent for one next hop", sent)
	}
}

// packetsSent counts the packets that a device of this thread's network namespace has sent.
func packetsSent(t *testing.T, dev string) int {
	t.Helper()
	table, err := os.ReadFile("/proc/thread-self/net/dev")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(table)) {
		if name, counters, ok := strings.Cut(strings.TrimSpace(line), ":"); ok && name == dev {
			sent, err := strconv.Atoi(strings.Fields(counters)[9])
			if err != nil {
				t.Fatal(err)
			}
			return sent
		}
	}
	t.Fatalf("there is no %s", dev)
	return 0
}

// A node may send the error from another address than that of its Node.
func TestNodeRefusesByAnotherAddress(t *testing.T) {
	l := newLAN(t)
	m := l.peer(2)
	card, err := m.nl.LinkByName("eth0")
	l.must(err)
	us, err := rtnl.ParseIPNet("192.168.1.11/32")
	l.must(err)
	addAddrs(t, m.nl, "eth0", "192.168.1.99/24")
	l.must(m.nl.RouteAdd(&rtnl.Route{LinkIndex: card.Attrs().Index, Dst: us, Src: []byte{192, 168, 1, 99}}))
	well(t, runCheck(t, "pod-packets", l.target()))
}
