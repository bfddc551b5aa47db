package topology

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
	"sigs.k8s.io/yaml"

	"github.com/plainroute/plainroute/pkg/problem"
)

// TestWholeStates runs testdata/whole/*.txtar: cases as in TestCases, with the whole desired State.
// The sections options and actual are those types in YAML. Of settings, actual has those that
// differ from a kernel's own; "" means that there is none.
func TestWholeStates(t *testing.T) {
	files, err := filepath.Glob("testdata/whole/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	for _, file := range files {
		archive, err := txtar.ParseFile(file)
		if err != nil {
			t.Fatal(err)
		}
		sections := map[string]string{}
		for i, f := range archive.Files {
			name, section := filepath.Split(f.Name)
			sections[section] = string(f.Data)
			if section != "want" {
				continue
			}
			t.Run(filepath.Clean(name), func(t *testing.T) {
				got := wholeCase(t, sections)
				if *update {
					archive.Files[i].Data = []byte(got)
				} else if got != string(f.Data) {
					t.Errorf("got:\n%s\nwant:\n%s", got, f.Data)
				}
			})
			clear(sections)
		}
		if *update {
			if err := os.WriteFile(file, txtar.Format(archive), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func wholeCase(t *testing.T, sections map[string]string) string {
	t.Helper()
	opts := Options{NodeName: "node1", Masquerade: true, Bridge: Bridge, RunDir: "/run/plainroute", VNI: 112, VXLANPort: 4789}
	var actual State
	for section, into := range map[string]any{"options": &opts, "actual": &actual} {
		if err := yaml.UnmarshalStrict([]byte(sections[section]), into); err != nil {
			t.Fatalf("%s: %v", section, err)
		}
	}
	host := parseHost(t, sections["host"])
	changed := actual.Sysctls
	actual.Sysctls = kernelSysctls(host, actual.Bridge)
	for path, value := range changed {
		if actual.Sysctls[path] = value; value == "" {
			delete(actual.Sysctls, path)
		}
	}
	return whole(Desired(opts, host, parseNodes(t, sections["nodes"]), actual))
}

// kernelSysctls are a kernel's own settings.
func kernelSysctls(host Host, bridge string) map[string]string {
	all := map[string]string{
		SysctlForward4: "0", SysctlForward6: "0", SysctlBridgeNF4: "0", SysctlBridgeNF6: "0", ConfSysctl(6, "all", "disable_ipv6"): "0",
	}
	for limit, value := range []string{"128", "512", "1024"} {
		all[NeighSysctl(4, limit+1)], all[NeighSysctl(6, limit+1)] = value, value
	}
	devs := []string{}
	for _, link := range host.Links {
		devs = append(devs, link.Name)
	}
	if bridge != "" {
		devs = append(devs, bridge)
	}
	for _, dev := range devs {
		all[ConfSysctl(4, dev, "forwarding")], all[ConfSysctl(6, dev, "forwarding")] = "0", "0"
		all[ConfSysctl(6, dev, "accept_ra")], all[ConfSysctl(6, dev, "disable_ipv6")] = "1", "0"
	}
	return all
}

// whole is all of a State, and the Problems.
func whole(s State, problems []problem.Problem) string {
	var b strings.Builder
	for _, path := range slices.Sorted(maps.Keys(s.Sysctls)) {
		fmt.Fprintf(&b, "sysctl -w %s=%s\n", path, s.Sysctls[path])
	}
	for _, d := range s.Devices {
		fmt.Fprintln(&b, "device", asJSON(d))
	}
	for _, t := range s.Tunnels {
		fmt.Fprintln(&b, "ip link add", t)
	}
	for _, a := range s.Addresses {
		fmt.Fprintln(&b, "ip address add", a)
	}
	for _, n := range s.Neighbors {
		fmt.Fprintln(&b, "ip neighbor add", n)
	}
	for _, e := range s.FDB {
		fmt.Fprintln(&b, "bridge fdb add", e)
	}
	for _, r := range s.Routes {
		fmt.Fprintln(&b, "ip route add", r)
	}
	fmt.Fprintf(&b, "nftables table %s\nbridge %q\nCNI config %s\n", asJSON(s.Masquerade), s.Bridge, asJSON(s.CNI))
	for _, p := range problems {
		if p.BlocksReady {
			b.WriteString("not ready: ")
		}
		fmt.Fprintln(&b, p)
	}
	return b.String()
}

func asJSON(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// The limits of the neighbor table are raised once there are more than 512 peers and pods, and only
// upwards.
func TestNeighborLimits(t *testing.T) {
	host := testHost(t)
	host.Routes = append(host.Routes, Route{Dst: netip.MustParsePrefix("192.168.0.0/16"), Dev: "eth0"})
	for _, c := range []struct {
		peers int
		have  string // the second limit
		want  string
	}{
		{0, "512", "gone gone gone"},
		{256, "512", "gone gone gone"},
		{257, "512", "1024 2048 4096"},
		{768, "512", "1024 2048 4096"},
		{769, "512", "2048 4096 8192"},
		{257, "2048", "1024 gone 4096"},
		{257, "2049", "1024 gone 4096"},
		{257, "2047", "1024 2048 4096"},
	} {
		for _, family := range []int{4, 6} {
			nodes := make([]*Node, c.peers+1)
			for i := range nodes {
				high, low := byte(i>>8), byte(i)
				nodes[i] = &Node{Name: fmt.Sprintf("node%d", i+1), Addrs: []netip.Addr{netip.AddrFrom4([4]byte{192, 168, byte(2 + i/250), byte(1 + i%250)})}}
				nodes[i].PodCIDRs = []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 128 + high, low, 0}), 24)}
				if family == 6 {
					nodes[i].Addrs = []netip.Addr{netip.MustParseAddr(fmt.Sprintf("fd00:192:168:1::%x", 0x11+i))}
					nodes[i].PodCIDRs = []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("fd00:10:244:%x::/64", i))}
				}
			}
			actual := State{Sysctls: kernelSysctls(host, "")}
			actual.Sysctls[NeighSysctl(family, 2)] = c.have
			state, _ := Desired(Options{NodeName: "node1", Bridge: Bridge}, host, nodes, actual)
			got := make([]string, 3)
			for limit := range got {
				if got[limit] = state.Sysctls[NeighSysctl(family, limit+1)]; got[limit] == "" {
					got[limit] = "gone"
				}
			}
			if strings.Join(got, " ") != c.want {
				t.Errorf("IPv%d, %d peers, a limit of %s: %v, want %s", family, c.peers, c.have, got, c.want)
			}
		}
	}
}
