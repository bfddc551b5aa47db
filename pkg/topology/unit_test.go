package topology

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/txtar"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/plainroute/plainroute/pkg/problem"
)

// A Problem of a subnet names it, or one of its Node's.
func TestProblemsNameSubnets(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	ofSubnets := []problem.Reason{problem.OffLink, problem.PodCIDRDisputed, problem.RouteConflict, problem.RouteKept}
	for _, file := range files {
		archive, err := txtar.ParseFile(file)
		if err != nil {
			t.Fatal(err)
		}
		sections := map[string]string{"host": defaultHost}
		for _, f := range archive.Files {
			name, section := filepath.Split(f.Name)
			sections[section] = string(f.Data)
			if section != "want" {
				continue
			}
			nodes := parseNodes(t, sections["nodes"])
			_, problems := Desired(parseOptions(t, sections["options"]), parseHost(t, sections["host"]), nodes, parseActual(t, sections["actual"]))
			for _, p := range problems {
				i := slices.IndexFunc(nodes, func(n *Node) bool { return n.Name == p.Node })
				if known := i >= 0 && slices.Contains(nodes[i].PodCIDRs, p.Subnet); !known && (p.Subnet.IsValid() || slices.Contains(ofSubnets, p.Reason)) {
					t.Errorf("%s: it is of the subnet %v: %v", filepath.Clean(name), p.Subnet, p)
				}
			}
			sections = map[string]string{"host": defaultHost}
		}
	}
}

// A new bridge, or one whose MAC address was changed, gets the one that pods have in their neighbor
// tables, also after a time without a config.
func TestMACAddressIsRemembered(t *testing.T) {
	host, nodes := testHost(t), goodNodes()
	opts := Options{NodeName: "node1", Bridge: Bridge, RunDir: "/run/plainroute"}
	kernel := func() State { return withKernel(State{}) }
	first, _ := Desired(opts, host, nodes, kernel())
	mac := first.Devices[0].MAC
	there := kernel()
	there.Bridge, there.Devices = Bridge, []Device{{Name: Bridge, Up: true, MAC: "02:00:00:00:00:99"}}
	if again, _ := Desired(opts, host, nodes, there.After(first)); again.Devices[0].MAC != mac {
		t.Errorf("a changed address becomes %s, want %s", again.Devices[0].MAC, mac)
	}
	if restarted, _ := Desired(opts, host, nodes, there); restarted.Devices[0].MAC != "02:00:00:00:00:99" {
		t.Errorf("after a restart the address becomes %s", restarted.Devices[0].MAC)
	}
	away, _ := Desired(opts, host, nil, kernel().After(first))
	nodes[0].PodCIDRs = []netip.Prefix{netip.MustParsePrefix("10.244.9.0/24")}
	if back, _ := Desired(opts, host, nodes, kernel().After(away)); back.Devices[0].MAC != mac {
		t.Errorf("a bridge that is made anew gets %s, want %s", back.Devices[0].MAC, mac)
	}
}

// goodNodes are node1 and node2, of IPv4.
func goodNodes() []*Node {
	return []*Node{
		{Name: "node1", PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24")}, Addrs: []netip.Addr{netip.MustParseAddr("192.168.1.11")}},
		{Name: "node2", PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.2.0/24")}, Addrs: []netip.Addr{netip.MustParseAddr("192.168.1.12")}},
	}
}

// A Node is read with either form of its subnets, by its InternalIPs alone, and within bounds.
func TestNodeIsRead(t *testing.T) {
	created := metav1.NewTime(time.Unix(1e9, 0))
	object := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "a", UID: "u", CreationTimestamp: created}}
	object.Spec.PodCIDR = "10.244.1.0/24"
	object.Status.Addresses = []corev1.NodeAddress{
		{Type: corev1.NodeHostName, Address: "a"}, {Type: corev1.NodeExternalIP, Address: "198.51.100.1"}, {Type: corev1.NodeInternalIP, Address: "192.168.1.11"},
	}
	want := &Node{
		Name: "a", UID: "u", Created: created.Time, PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24")},
		Addrs: []netip.Addr{netip.MustParseAddr("192.168.1.11")},
	}
	if got := NodeFrom(object); !got.Equal(want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	object.Spec.PodCIDRs = []string{"fd00::/64"}
	want.PodCIDRs = []netip.Prefix{netip.MustParsePrefix("fd00::/64")}
	if got := NodeFrom(object); !got.Equal(want) {
		t.Errorf("with podCIDRs, got %+v, want %+v", got, want)
	}
	object.Status.Addresses = nil
	for range 40 {
		object.Status.Addresses = append(object.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: "x"})
	}
	faults := NodeFrom(object).Problems
	if len(faults) != maxAddrs+1 || faults[maxAddrs].Reason != problem.AddressRefused || faults[maxAddrs-1].Reason != problem.AddressMalformed {
		t.Errorf("%d faults: %v", len(faults), faults)
	}
}

func TestQuoteIsShort(t *testing.T) {
	for n, want := range map[int]int{0: 2, 64: 66, 65: 69, 1000: 69} {
		if got := quote(strings.Repeat("x", n)); len(got) != want {
			t.Errorf("%d characters become %d: %s", n, len(got), got)
		}
	}
}

// Of several links with an address, the one with its network counts; else any but kube-proxy's.
func TestLinkWithAnAddress(t *testing.T) {
	addr := netip.MustParseAddr("192.168.1.11")
	link := func(name, prefix string) Link {
		return Link{Name: name, Addrs: []netip.Prefix{netip.MustParsePrefix(prefix)}}
	}
	for want, links := range map[string][]Link{
		"":     {link("eth0", "192.168.1.12/24")},
		"eth1": {link("kube-ipvs0", "192.168.1.11/32"), link("eth1", "192.168.1.11/32"), link("eth2", "192.168.1.11/32")},
		"eth2": {link("eth1", "192.168.1.11/32"), link("eth2", "192.168.1.11/24"), link("eth3", "192.168.1.11/24")},
		"eth5": {link("eth5", "192.168.1.11/32"), link("kube-ipvs0", "192.168.1.11/32")},
	} {
		got, as := Host{Links: links}.linkWith(addr)
		if got.Name != want || as.IsValid() != (want != "") {
			t.Errorf("of %v it is %q, %v", links, got.Name, as)
		}
		single := !slices.ContainsFunc(links, func(l Link) bool { return l.Addrs[0].Addr() == addr && !l.Addrs[0].IsSingleIP() })
		if got := as.IsValid() && as.IsSingleIP(); got != (single && want != "") {
			t.Errorf("of %v it has it as %v", links, as)
		}
	}
}

// A route of ours leads to a peer's subnet only with that subnet, our metric, no type and a gateway.
func TestLeadsTo(t *testing.T) {
	subnet := netip.MustParsePrefix("10.244.2.0/24")
	good := Route{Dst: subnet, Metric: PeerMetric(subnet), Via: netip.MustParseAddr("192.168.1.12")}
	if !leadsTo(&good, subnet) {
		t.Error("a good one does not")
	}
	for i, change := range []func(*Route){
		func(r *Route) { r.Dst = netip.MustParsePrefix("10.244.2.0/25") }, func(r *Route) { r.Metric++ },
		func(r *Route) { r.Type = Unreachable }, func(r *Route) { r.Via = netip.Addr{} },
	} {
		bad := good
		change(&bad)
		if leadsTo(&bad, subnet) {
			t.Errorf("%d: %+v does", i, bad)
		}
	}
}

// With --cluster-cidr, that and the nodes' networks concern a cluster; without it, what pod subnets
// can be.
func TestConcernsOfOptions(t *testing.T) {
	nodes := goodNodes()
	nodes[1].PodCIDRs = append(nodes[1].PodCIDRs, netip.MustParsePrefix("fd00:4400::/40"))
	for want, opts := range map[string]Options{
		"[10.244.0.0/15 192.168.0.0/16]":                {ClusterCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/15")}},
		"[10.244.0.0/16 192.168.0.0/16]":                {},
		"[10.244.0.0/16 192.168.0.0/16 fd00:4400::/40]": {MaskSizes6: Lengths{40, 40}},
	} {
		if got := fmt.Sprint(Concerns(opts, nodes)); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func TestOutermostLeavesItsArgumentAlone(t *testing.T) {
	given := []netip.Prefix{netip.MustParsePrefix("10.244.2.0/24"), netip.MustParsePrefix("10.244.1.0/24"), netip.MustParsePrefix("10.244.0.0/16")}
	before := slices.Clone(given)
	if got := Outermost(given); len(got) != 1 || !slices.Equal(given, before) {
		t.Errorf("got %v; the argument is %v", got, given)
	}
}

// A Node whose address kube-proxy has put on a device of this host keeps its route, which is
// reported; one whose address brings a network there does not.
func TestAddressElsewhereKeepsTheRoute(t *testing.T) {
	nodes, opts := goodNodes(), Options{NodeName: "node1", Bridge: Bridge, RunDir: "/run/plainroute"}
	first, _ := Desired(opts, testHost(t), nodes, withKernel(State{}))
	subnet := nodes[1].PodCIDRs[0]
	for prefix, kept := range map[string]bool{"192.168.1.12/32": true, "192.168.1.12/24": false} {
		host := testHost(t)
		host.Links = append(host.Links, Link{Name: ipvsDevice, MTU: 1500, Addrs: []netip.Prefix{netip.MustParsePrefix(prefix)}})
		state, problems := Desired(opts, host, nodes, withKernel(State{}).After(first))
		if got := slices.ContainsFunc(state.Routes, func(r *Route) bool { return r.Dst == subnet }); got != kept {
			t.Errorf("with %s the route is there: %v, want %v", prefix, got, kept)
		}
		reported := slices.ContainsFunc(problems, func(p problem.Problem) bool {
			return p.Node == "node2" && p.Subnet == subnet && p.Reason == problem.RouteKept && strings.Contains(p.Message, "192.168.1.12 is an address of this host, on kube-ipvs0")
		})
		if reported != kept {
			t.Errorf("with %s the problems are %v", prefix, problems)
		}
	}
}
