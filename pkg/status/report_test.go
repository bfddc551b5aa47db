package status

import (
	"bytes"
	"encoding/json"
	"flag"
	"net/netip"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/topology"
)

var update = flag.Bool("update", false, "write what is got into testdata as what is wanted")

func prefixes(list ...string) []netip.Prefix {
	var all []netip.Prefix
	for _, s := range list {
		all = append(all, netip.MustParsePrefix(s))
	}
	return all
}

func addrs(list ...string) []netip.Addr {
	var all []netip.Addr
	for _, s := range list {
		all = append(all, netip.MustParseAddr(s))
	}
	return all
}

func peerRoute(dst, via string) *topology.Route {
	return &topology.Route{
		Dst: netip.MustParsePrefix(dst), Via: netip.MustParseAddr(via), Dev: "eth0",
		Protocol: topology.Protocol, Metric: topology.PeerMetric(netip.MustParsePrefix(dst)),
	}
}

// example is a node with a peer in each state.
func example() *Result {
	r := &Result{
		Version: "v1", Node: "node1", Ready: true, Seen: true,
		Host: Host{
			Addresses: addrs("192.168.1.11"), Subnets: prefixes("10.244.1.0/24"), Uplinks: []Uplink{{"eth0", 1500}},
			MTU: 1500, Encapsulation: "never", Bridge: "plainroute0", Ports: 3, Config: "/etc/cni/net.d/10-plainroute.conflist",
		},
		API: API{Synced: true, LastEvent: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)},
		Nodes: []*topology.Node{
			{Name: "node1", PodCIDRs: prefixes("10.244.1.0/24"), Addrs: addrs("192.168.1.11")},
			{Name: "node6", PodCIDRs: prefixes("10.244.6.0/24"), Addrs: addrs("192.168.1.16")},
			{Name: "node2", PodCIDRs: prefixes("10.244.2.0/24", "fd00:10:244:2::/64"), Addrs: addrs("192.168.1.12", "fd00:192:168:1::12")},
			{Name: "node3", PodCIDRs: prefixes("10.244.3.0/24"), Addrs: addrs("192.168.1.13")},
			{Name: "node4", PodCIDRs: prefixes("10.244.4.0/24"), Addrs: addrs("172.16.0.14")},
			{Name: "node5", PodCIDRs: prefixes("127.0.0.0/24"), Addrs: addrs("192.168.1.15")},
			{Name: "node7"},
		},
		Desired: topology.State{
			Sysctls: map[string]string{topology.SysctlForward4: "1"},
			Routes: []*topology.Route{
				{Type: topology.Unreachable, Dst: netip.MustParsePrefix("10.244.1.0/24"), Protocol: topology.Protocol, Metric: topology.MetricOwn},
				peerRoute("10.244.2.0/24", "192.168.1.12"), peerRoute("10.244.3.0/24", "192.168.1.13"),
				peerRoute("10.244.6.0/24", "192.168.1.16"), peerRoute("fd00:10:244:2::/64", "fd00:192:168:1::12"),
			},
			Masquerade: &topology.Masquerade{
				Bridge: "plainroute0", Sources: prefixes("10.244.1.0/24"),
				Cluster: prefixes("10.244.0.0/16"), Nodes: addrs("192.168.1.12"),
			},
			CNI: &topology.CNI{Bridge: "plainroute0", MTU: 1500, Subnets: prefixes("10.244.1.0/24"), IPAMDir: "/run/plainroute/ipam"},
		},
		Problems: []problem.Problem{
			{Subject: problem.Node("node3"), Reason: problem.RouteConflict, Message: "the kernel prefers another"},
			{Subject: problem.Node("node4"), Reason: problem.OffLink, Message: "InternalIP 172.16.0.14 is behind a gateway"},
			{Subject: problem.Node("node5"), Reason: problem.PodCIDRRefused, Message: "podCIDR 127.0.0.0/24 is loopback"},
			{Subject: problem.Node("node6"), Reason: problem.RouteFailed, Message: "invalid argument"},
			{Subject: problem.Node("node7"), Reason: problem.PodCIDRMissing, Message: "the Node has no podCIDR yet"},
		},
		Pass: Pass{Number: 7, Time: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC), Duration: 1500 * time.Microsecond, Changes: 4},
	}
	r.Passes = []Pass{r.Pass, {Number: 6, Time: r.Pass.Time.Add(-time.Second), Duration: time.Millisecond}}
	slices.SortFunc(r.Problems, problem.Problem.Compare)
	return r
}

// The JSON is what programs rely on: a field may come, none may go or change.
func TestReportGolden(t *testing.T) {
	got, err := json.MarshalIndent(example().Report(), "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	got = append(got, '\n')
	const file = "testdata/report.json"
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
	var back Report
	if err := json.Unmarshal(got, &back); err != nil {
		t.Fatal("a program of ours can't read it:", err)
	}
	if len(back.Peers) != 6 || back.Pass.Duration != 1500*time.Microsecond {
		t.Errorf("read back %+v", back)
	}
}

// Lists are lists in JSON, never null, so that jq and loops need no case for it.
func TestEmptyReportHasLists(t *testing.T) {
	got, err := json.Marshal((&Result{}).Report())
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"problems":[]`, `"peers":[]`, `"state":{}`} {
		if !bytes.Contains(got, []byte(want)) {
			t.Errorf("no %s in %s", want, got)
		}
	}
}

func TestPeerStates(t *testing.T) {
	states := map[string]PeerState{}
	for range 50 { // the same each time
		for _, p := range example().Report().Peers {
			if before, ok := states[p.Subnet.String()]; ok && before != p.State {
				t.Fatalf("%s is %q once and %q then", p.Subnet, before, p.State)
			}
			states[p.Subnet.String()] = p.State
			if routed := p.Via.IsValid(); routed != (p.State == OK || p.State == Conflict || p.State == Failed) || routed != (p.Dev != "") {
				t.Errorf("%s is %s, but via %s dev %s", p.Subnet, p.State, p.Via, p.Dev)
			}
		}
	}
	for subnet, want := range map[string]PeerState{
		"10.244.2.0/24": OK, "fd00:10:244:2::/64": OK, "10.244.3.0/24": Conflict,
		"10.244.4.0/24": OffLink, "127.0.0.0/24": Refused, "10.244.6.0/24": Failed,
	} {
		if states[subnet] != want {
			t.Errorf("%s is %q, want %q", subnet, states[subnet], want)
		}
	}
}

// A Node with several problems has the worst state, the same each time.
func TestPeerWithSeveralReasons(t *testing.T) {
	for range 50 {
		r := example()
		r.Problems = append(r.Problems,
			problem.Problem{Subject: problem.Node("node2"), Reason: problem.RouteFailed}, problem.Problem{Subject: problem.Node("node2"), Reason: problem.RouteConflict},
			problem.Problem{Subject: problem.Node("node2"), Reason: problem.OffLink})
		for _, p := range r.Report().Peers {
			if p.Node == "node2" && (p.State != Failed || len(p.Reason) != 3) {
				t.Fatalf("%s is %s for %v, want failed for three reasons", p.Subnet, p.State, p.Reason)
			}
		}
	}
}

// One family of a dual-stack peer may be off link while the other is not.
func TestPeerHalfOffLink(t *testing.T) {
	r := example()
	r.Desired.Routes = slices.DeleteFunc(r.Desired.Routes, func(x *topology.Route) bool { return x.Dst.String() == "fd00:10:244:2::/64" })
	r.Problems = append(r.Problems, problem.Problem{Subject: problem.Node("node2"), Reason: problem.OffLink})
	for _, p := range r.Report().Peers {
		if want := map[string]PeerState{"10.244.2.0/24": OK, "fd00:10:244:2::/64": OffLink}[p.Subnet.String()]; want != "" && p.State != want {
			t.Errorf("%s is %s, want %s", p.Subnet, p.State, want)
		}
	}
}

// The loser of a dispute has no row like the winner's.
func TestLoserOfADisputeIsRefused(t *testing.T) {
	r := example()
	r.Nodes = append(r.Nodes, &topology.Node{Name: "loser", PodCIDRs: prefixes("10.244.2.0/24"), Addrs: addrs("192.168.1.12", "192.168.1.99")})
	r.Problems = append(r.Problems, problem.Problem{Subject: problem.Node("loser"), Reason: problem.PodCIDRDisputed})
	got := map[string]PeerState{}
	for _, p := range r.Report().Peers {
		if p.Subnet.String() == "10.244.2.0/24" {
			got[p.Node] = p.State
		}
	}
	if got["node2"] != OK || got["loser"] != Refused {
		t.Errorf("states are %v", got)
	}
}

func TestBlocking(t *testing.T) {
	own, other := problem.Problem{BlocksReady: true, Reason: "A"}, problem.Problem{Reason: "B"}
	for want, problems := range map[int][]problem.Problem{0: {other, other}, 1: {own, other}, 2: {own, own}} {
		if got := (&Result{Problems: problems}).Blocking(); len(got) != want {
			t.Errorf("of %v %v block, want %d", problems, got, want)
		}
	}
	if got := (&Result{}).Blocking(); len(got) != 0 {
		t.Errorf("nothing blocks by %v", got)
	}
}

func TestLatest(t *testing.T) {
	var b Latest
	if first := b.Last(); first.Ready || len(first.Blocking()) != 1 {
		t.Errorf("before the first pass: %+v", first)
	}
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 200 {
				b.Publish(example())
				if got := b.Last().Report(); len(got.Peers) != 6 {
					t.Errorf("read %d peers", len(got.Peers))
					return
				}
			}
		})
	}
	all.Wait()
}

// A report is made of the Result and leaves it as it is, for others read it too.
func TestReportDoesNotChangeTheResult(t *testing.T) {
	r := example()
	_ = r.Report()
	want, _ := json.Marshal(example().Desired)
	got, _ := json.Marshal(r.Desired)
	if !bytes.Equal(got, want) || !slices.Equal(r.Problems, example().Problems) || r.Nodes[1].Name != "node6" {
		t.Errorf("the Result became %+v", r)
	}
}

// A problem in one family is not reported for the other.
func TestPeerOfTwoFamilies(t *testing.T) {
	r := example()
	four, six := netip.MustParsePrefix("10.244.2.0/24"), netip.MustParsePrefix("fd00:10:244:2::/64")
	r.Problems = []problem.Problem{
		{Subject: problem.Subject{Node: "node2", Subnet: four}, Reason: problem.RouteConflict, Message: "the kernel prefers another"},
		{Subject: problem.Node("node2"), Reason: problem.AddressShared, Message: "another has it too"},
	}
	for _, p := range r.Report().Peers {
		switch p.Subnet {
		case four:
			if p.State != Conflict || len(p.Reason) != 2 || p.Message != "the kernel prefers another; another has it too" {
				t.Errorf("%+v", p)
			}
		case six:
			if p.State != OK || len(p.Reason) != 1 || p.Message != "another has it too" {
				t.Errorf("%+v", p)
			}
		}
	}
}
