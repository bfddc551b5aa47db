package topology

import (
	"errors"
	"flag"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/txtar"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/plainroute/plainroute/pkg/problem"
)

var update = flag.Bool("update", false, "write what is computed as what is wanted; read the diff before you commit it")

// TestCases runs testdata/*.txtar. A file holds cases one after another, each with the sections
//
//	nodes    a line each: name, age, podCIDRs, InternalIPs; - for none
//	options  flags, a line each; node1 is us
//	host     a Host in YAML; without it, defaultHost
//	actual   what is there: SUBNET via ADDRESS dev LINK [shared], unreachable
//	         SUBNET, elsewhere SUBNET via ADDRESS dev LINK in main, address PREFIX of the bridge, cni SUBNETS, sysctl PATH=VALUE,
//	         bridge [up] [in MASTER] [mac MAC], port NAME [up] [in MASTER] [pod ADDRESS [known] [rival NAME]]
//	want     the routes, raised limits and Problems that come of it; also the devices
//	         and addresses where the case mentions a bridge, and the settings that the
//	         section actual names
//
// of which only nodes and want are mandatory. The comment before a case describes it.
func TestCases(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	for _, file := range files {
		archive, err := txtar.ParseFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for i := range archive.Files {
			if name, ok := strings.CutSuffix(archive.Files[i].Name, "/want"); ok {
				t.Run(name, func(t *testing.T) { runCase(t, archive, name, &archive.Files[i]) })
			}
		}
		if *update {
			if err := os.WriteFile(file, txtar.Format(archive), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func runCase(t *testing.T, archive *txtar.Archive, name string, want *txtar.File) {
	sections := map[string]string{}
	for _, f := range archive.Files {
		if section, ok := strings.CutPrefix(f.Name, name+"/"); ok {
			sections[section] = string(f.Data)
		}
	}
	host := sections["host"]
	if host == "" {
		host = defaultHost
	}
	actual := sections["actual"]
	state, problems := Desired(parseOptions(t, sections["options"]), parseHost(t, host),
		parseNodes(t, sections["nodes"]), parseActual(t, actual))
	if about := name + host + actual; !strings.Contains(about, "bridge") && !strings.Contains(about, Bridge) {
		state.Addresses, state.Devices = nil, nil
	}
	maps.DeleteFunc(state.Sysctls, func(path, _ string) bool {
		return !strings.Contains(path, "gc_thresh") && !strings.Contains(actual, "sysctl "+path)
	})
	got := describe(state, problems)
	if *update {
		want.Data = []byte(got)
	} else if got != string(want.Data) {
		t.Errorf("got:\n%s\nwant:\n%s", got, want.Data)
	}
}

const defaultHost = `
links:
- {name: lo, mtu: 65536, addrs: [127.0.0.1/8, "::1/128"], loopback: true}
- {name: eth0, mtu: 1500, addrs: [192.168.1.11/24, "fd00:192:168:1::11/64"]}
routes:
- {dst: 192.168.1.0/24, dev: eth0, protocol: 2}
- {dst: "fd00:192:168:1::/64", dev: eth0, protocol: 2, metric: 256}
- {dst: 0.0.0.0/0, via: 192.168.1.1, dev: eth0}
- {dst: "::/0", via: "fd00:192:168:1::1", dev: eth0, metric: 1024}
nameservers: [10.244.53.53]
`

func describe(state State, problems []problem.Problem) string {
	var b strings.Builder
	for _, r := range state.Routes {
		fmt.Fprintln(&b, r)
	}
	for _, r := range state.Elsewhere {
		fmt.Fprintln(&b, "stays:", r)
	}
	for _, d := range state.Devices {
		fmt.Fprintln(&b, d)
	}
	for _, a := range state.Addresses {
		fmt.Fprintln(&b, "address", a)
	}
	for _, path := range slices.Sorted(maps.Keys(state.Sysctls)) {
		fmt.Fprintf(&b, "%s=%s\n", path, state.Sysctls[path])
	}
	if m := state.Masquerade; m != nil && len(m.Sources) > 1 {
		fmt.Fprintln(&b, "masquerade", m.Sources)
	}
	if m := state.Masquerade; m != nil {
		for _, e := range m.Egress {
			fmt.Fprintln(&b, "egress", e.Dev, e.Addr)
		}
	}
	if state.CNI != nil {
		fmt.Fprintf(&b, "CNI %v mtu %d\n", state.CNI.Subnets, state.CNI.MTU)
	}
	for _, p := range problems {
		if p.BlocksReady {
			b.WriteString("not ready: ")
		}
		fmt.Fprintln(&b, p)
	}
	return b.String()
}

func parseNodes(t *testing.T, text string) []*Node {
	t.Helper()
	var nodes []*Node
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) != 4 {
			t.Fatalf("a line of nodes has 4 fields: %q", line)
		}
		age, err := time.ParseDuration(f[1])
		if err != nil {
			t.Fatal(err)
		}
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: f[0], CreationTimestamp: metav1.NewTime(time.Unix(1e9, 0).Add(-age))}}
		if f[2] != "-" {
			n.Spec.PodCIDRs = strings.Split(f[2], ",")
		}
		if f[3] != "-" {
			for _, a := range expand(f[3]) {
				n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: a})
			}
		}
		nodes = append(nodes, NodeFrom(n))
	}
	return nodes
}

// expand replaces ADDRESS*NUMBER with that many addresses.
func expand(field string) []string {
	if first, times, ok := strings.Cut(field, "*"); ok {
		addr := netip.MustParseAddr(first)
		n, _ := strconv.Atoi(times)
		all := make([]string, n)
		for i := range all {
			all[i], addr = addr.String(), addr.Next()
		}
		return all
	}
	return strings.Split(field, ",")
}

func parseOptions(t *testing.T, text string) Options {
	t.Helper()
	o := Options{NodeName: "node1", Masquerade: true, Bridge: Bridge, RunDir: "/run/plainroute"}
	for line := range strings.Lines(text) {
		flag, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch flag {
		case "--cluster-cidr":
			o.ClusterCIDRs = append(o.ClusterCIDRs, netip.MustParsePrefix(value))
		case "--service-cidr":
			o.ServiceCIDRs = append(o.ServiceCIDRs, netip.MustParsePrefix(value))
		case "--node-cidr":
			o.NodeCIDRs = append(o.NodeCIDRs, netip.MustParsePrefix(value))
		case "--node-cidr-mask-size-ipv4":
			o.MaskSizes4 = parseLengths(t, value)
		case "--table":
			o.RouteTable, _ = strconv.Atoi(value)
		case "--mtu":
			o.MTU, _ = strconv.Atoi(value)
		case "--firewall-plugin":
			o.Firewall = true
		case "--masquerade":
			o.Masquerade = value == "true"
		case "--off-link":
			o.OffLink = OffLink(value)
		case "--mode":
			o.Router = value == "router"
		case "api-server":
			o.APIServers = append(o.APIServers, netip.MustParseAddr(value))
		default:
			t.Fatalf("unknown option %q", flag)
		}
	}
	return o
}

// parseLengths reads 24 or 24-28.
func parseLengths(t *testing.T, text string) Lengths {
	t.Helper()
	widest, narrowest, both := strings.Cut(text, "-")
	if !both {
		narrowest = widest
	}
	first, err1 := strconv.Atoi(widest)
	last, err2 := strconv.Atoi(narrowest)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	return Lengths{first, last}
}

func parseHost(t *testing.T, text string) Host {
	t.Helper()
	var h Host
	if err := yaml.UnmarshalStrict([]byte(text), &h); err != nil {
		t.Fatal(err)
	}
	return h
}

// parseActual reads the actual State on a host with all settings in place.
func parseActual(t *testing.T, text string) State {
	t.Helper()
	s := allSysctls("lo", "eth0", "eth1", Bridge)
	for line := range strings.Lines(text) {
		switch f := strings.Fields(line); {
		case f[0] == string(Unreachable):
			s.Routes = append(s.Routes, &Route{Type: Unreachable, Dst: netip.MustParsePrefix(f[1]), Protocol: Protocol, Metric: MetricOwn})
		case f[0] == "address":
			s.Addresses = append(s.Addresses, Address{Bridge, netip.MustParsePrefix(f[1])})
		case f[0] == "cni":
			s.CNI = &CNI{Bridge: Bridge, MTU: 1500, IPAMDir: "/run/plainroute/ipam"}
			for _, p := range f[1:] {
				s.CNI.Subnets = append(s.CNI.Subnets, netip.MustParsePrefix(p))
			}
		case f[0] == "sysctl":
			path, value, _ := strings.Cut(f[1], "=")
			s.Sysctls[path] = value
		case f[0] == "bridge":
			s.Bridge = Bridge
			s.Devices = append(s.Devices, parseDevice(append([]string{Bridge}, f[1:]...)))
		case f[0] == "port":
			s.Devices = append(s.Devices, parseDevice(f[1:]))
		case f[0] == "elsewhere":
			subnet := netip.MustParsePrefix(f[1])
			s.Elsewhere = append(s.Elsewhere, TableRoute{Route{Dst: subnet, Via: netip.MustParseAddr(f[3]), Dev: f[5], Protocol: Protocol, Metric: PeerMetric(subnet)}, MainTable})
		case f[0] == "gc_thresh":
			for _, path := range []string{NeighSysctl(4, 1), NeighSysctl(4, 2), NeighSysctl(4, 3)} {
				s.Sysctls[path] = f[1]
			}
		case len(f) < 5:
			t.Fatalf("an actual route is SUBNET via ADDRESS dev LINK: %q", line)
		default:
			subnet := netip.MustParsePrefix(f[0])
			s.Routes = append(s.Routes, &Route{
				Dst: subnet, Via: netip.MustParseAddr(f[2]), Dev: f[4],
				Protocol: Protocol, Metric: PeerMetric(subnet), Shared: len(f) > 5,
			})
		}
	}
	return s
}

// parseDevice reads NAME [up] [in MASTER] [mac MAC] [pod ADDRESS [known] [duplicate NAME]].
func parseDevice(f []string) Device {
	d := Device{Name: f[0]}
	for i, word := range f {
		switch word {
		case "up":
			d.Up = true
		case "in":
			d.Master = f[i+1]
		case "mac":
			d.MAC = f[i+1]
		case "pod":
			d.Pod = netip.MustParseAddr(f[i+1])
		case "known":
			d.Known = true
		case "duplicate":
			d.Duplicate = f[i+1]
		}
	}
	return d
}

func allSysctls(devs ...string) State {
	s := State{Sysctls: map[string]string{SysctlForward4: "1", SysctlForward6: "1", SysctlBridgeNF4: "1", SysctlBridgeNF6: "1"}}
	for _, dev := range devs {
		for _, family := range []int{4, 6} {
			s.Sysctls[ConfSysctl(family, dev, "forwarding")] = "1"
		}
	}
	s.Sysctls[ConfSysctl(6, Bridge, "accept_ra")], s.Sysctls[ConfSysctl(6, Bridge, "disable_ipv6")] = "0", "0"
	return s
}
