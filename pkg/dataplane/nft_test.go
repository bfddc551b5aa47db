package dataplane

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/plainroute/plainroute/pkg/topology"
)

// masquerades are tables of all shapes that a pass can ask for.
func masquerades() map[string]*topology.Masquerade {
	prefixes := func(all ...string) (parsed []netip.Prefix) {
		for _, p := range all {
			parsed = append(parsed, netip.MustParsePrefix(p))
		}
		return parsed
	}
	addrs := func(all ...string) (parsed []netip.Addr) {
		for _, a := range all {
			parsed = append(parsed, netip.MustParseAddr(a))
		}
		return parsed
	}
	return map[string]*topology.Masquerade{
		"no masquerade": {Bridge: topology.Bridge},
		"dual-stack": {
			Bridge: topology.Bridge, Sources: prefixes("10.128.0.0/24", "fd01::/64"),
			Cluster: prefixes("10.128.0.0/16", "172.16.0.0/12", "fd01::/48"), Nodes: addrs("192.168.1.12", "192.168.1.13", "fd00:192:168:1::12"),
			Egress: []topology.Egress{
				{Dev: "eth0", Addr: netip.MustParseAddr("192.168.1.11")},
				{Dev: "eth1", Addr: netip.MustParseAddr("192.168.2.11")},
				{Dev: "eth0", Addr: netip.MustParseAddr("fd00:192:168:1::11")},
			},
		},
		"IPv4 alone":   {Bridge: "cni0", Sources: prefixes("10.128.0.0/24"), Cluster: prefixes("10.128.0.0/24"), Nodes: addrs("192.168.1.12")},
		"IPv6 alone":   {Bridge: topology.Bridge, Sources: prefixes("fd01::/64"), Cluster: prefixes("fd01::/64"), Nodes: addrs("fd00::12")},
		"a node alone": {Bridge: topology.Bridge, Sources: prefixes("10.128.0.0/24"), Cluster: prefixes("10.128.0.0/24")},
		"a former subnet": {
			Bridge: topology.Bridge, Sources: prefixes("10.128.0.0/24", "10.128.7.0/24"), Cluster: prefixes("10.128.0.0/24", "10.128.7.0/24"),
		},
		"both ends of the address space": {
			Bridge: topology.Bridge, Sources: prefixes("10.128.0.0/24", "fd01::/64"),
			Cluster: prefixes("0.0.0.0/8", "10.0.0.0/8", "11.0.0.0/8", "224.0.0.0/3", "::/8", "ff00::/8"), Nodes: addrs("255.255.255.255", "::1"),
		},
		"the whole address space": {
			Bridge: topology.Bridge, Sources: prefixes("10.128.0.0/24", "fd01::/64"), Cluster: prefixes("0.0.0.0/0", "::/0"),
		},
		"tunnels": {
			Bridge: topology.Bridge, Sources: prefixes("10.128.0.0/24", "fd01::/64"), Cluster: prefixes("10.128.0.0/16", "fd01::/48"),
			Tunnels: []topology.TunnelFilter{
				{Dev: topology.Tunnel4, VNI: 112, Port: 4789, Own: netip.MustParsePrefix("10.128.0.0/24")},
				{Dev: topology.Tunnel6, VNI: 0xabcdef, Port: 8472, Own: netip.MustParsePrefix("fd01::/64")},
			},
			Endpoints: addrs("192.168.2.13", "192.168.2.14", "fd00:192:168:2::13"),
		},
		"a tunnel without masquerading": {
			Bridge: topology.Bridge, Cluster: prefixes("10.128.0.0/16"), Endpoints: addrs("192.168.2.13"),
			Tunnels: []topology.TunnelFilter{{Dev: topology.Tunnel4, VNI: 1, Port: 4789, Own: netip.MustParsePrefix("10.128.0.0/24")}},
		},
		"prefixes of odd lengths": {
			Bridge: topology.Bridge, Sources: prefixes("10.128.0.64/27", "fd01:0:0:10::/61"), Cluster: prefixes("10.128.0.0/17", "fd01::/45"),
		},
	}
}

// The table that the kernel has is the one that plan prints, in the eyes of nft, which shares no
// code with either.
func TestTableIsWhatPlanPrints(t *testing.T) {
	for name, want := range masquerades() {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			nft := m.nftProgram()
			m.must(m.writeTable(want))
			fromText := m.newSandbox()
			m.must(fromText.do(func() error { _, err := nft(want.Ruleset(), "-f", "-"); return err }))
			var text []any
			m.must(fromText.do(func() (err error) { text, err = listed(nft); return err }))
			kernel, err := listed(nft)
			m.must(err)
			if diff := cmp.Diff(text, kernel); diff != "" || len(kernel) < 2 {
				t.Errorf("the kernel has not what plan prints (-plan +kernel):\n%s\nplan prints\n%s", diff, want.Ruleset())
			}
			if got := m.table(); !got.SameRules(want) || !slices.Equal(got.Cluster, want.Cluster) || !slices.Equal(got.Nodes, want.Nodes) || !slices.Equal(got.Endpoints, want.Endpoints) {
				t.Errorf("read back as %+v, want %+v", got, want)
			}
		})
	}
}

// listed is the table as nft -j prints it, without the numbers that the kernel gives.
func listed(nft func(stdin string, args ...string) (string, error)) ([]any, error) {
	out, err := nft("", "-j", "list", "table", "inet", topology.Table)
	if err != nil {
		return nil, err
	}
	var all struct{ Nftables []any }
	if err := json.Unmarshal([]byte(out), &all); err != nil {
		return nil, fmt.Errorf("reading what nft prints: %w", err)
	}
	for _, object := range all.Nftables {
		unnumbered(object)
	}
	return all.Nftables[1:], nil // the first one is of nft itself
}

// unnumbered takes handles away, and sorts elements.
func unnumbered(object any) {
	switch object := object.(type) {
	case map[string]any:
		delete(object, "handle")
		if elements, ok := object["elem"].([]any); ok {
			slices.SortFunc(elements, func(a, b any) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
		}
		for _, value := range object {
			unnumbered(value)
		}
	case []any:
		for _, value := range object {
			unnumbered(value)
		}
	}
}

// nftProgram runs nft of this machine, or of the tests' cluster of kubelets, in the network
// namespace of the caller.
func (m *machine) nftProgram() func(stdin string, args ...string) (string, error) {
	m.t.Helper()
	const debian = "../../bin/e2e/debian/usr/"
	program, err := exec.LookPath("nft")
	env := os.Environ()
	if err != nil {
		program, err = exec.LookPath(debian + "sbin/nft")
		env = append(env, "LD_LIBRARY_PATH="+debian+"lib/"+map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[runtime.GOARCH]+"-linux-gnu")
	}
	if err != nil {
		m.t.Skipf("nft is neither on this machine (apt-get install nftables) nor in bin/e2e (make e2e-assets): %v", err)
	}
	return func(stdin string, args ...string) (string, error) {
		cmd := exec.CommandContext(context.Background(), program, args...)
		cmd.Env, cmd.Stdin = env, strings.NewReader(stdin)
		var problem strings.Builder
		cmd.Stderr = &problem
		out, err := cmd.Output()
		if err != nil {
			return "", fmt.Errorf("nft %v: %w\n%s\n%s", args, err, problem.String(), stdin)
		}
		return string(out), nil
	}
}
