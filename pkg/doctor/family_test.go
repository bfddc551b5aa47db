package doctor

import (
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/status"
	"github.com/plainroute/plainroute/pkg/topology"
)

// If pods have only IPv6 addresses, settings of IPv4 don't matter.
func TestSettingsOfIPv6Alone(t *testing.T) {
	p := &Target{ProcSys: t.TempDir(), Report: &status.Report{}}
	p.Report.Host.Subnets = []netip.Prefix{netip.MustParsePrefix("fd00:10:244:1::/64")}
	p.Report.Host.Uplinks = []status.Uplink{{Name: "eth0", MTU: 1500}}
	set := func(path, value string) {
		t.Helper()
		path = filepath.Join(p.ProcSys, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(value+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range []string{topology.SysctlForward4, topology.ConfSysctl(4, "eth0", "forwarding"), topology.SysctlBridgeNF4} {
		set(path, "0")
	}
	set(topology.SysctlForward6, "1")
	set(topology.SysctlBridgeNF6, "1")
	well(t, forwarding(t.Context(), p))
	well(t, bridgeNetfilter(t.Context(), p))
	set(topology.SysctlForward6, "0")
	set(topology.SysctlBridgeNF6, "0")
	finds(t, forwarding(t.Context(), p), problem.Error, "does not forward", topology.SysctlForward6)
	finds(t, bridgeNetfilter(t.Context(), p), problem.Error, "pass no firewall", topology.SysctlBridgeNF6)
}
