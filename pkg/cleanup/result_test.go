package cleanup

import (
	"slices"
	"strings"
	"testing"

	"github.com/plainroute/plainroute/pkg/plan"
	"github.com/plainroute/plainroute/pkg/topology"
)

// Settings that the agent may have set are listed; a loose rp_filter only where there are tunnels.
func TestSettings(t *testing.T) {
	loose, tunnel := topology.ConfSysctl(4, "eth0", "rp_filter"), topology.ConfSysctl(4, topology.Tunnel4, "rp_filter")
	s := topology.State{Sysctls: map[string]string{topology.SysctlForward4: "1", topology.SysctlForward6: "0", loose: "2", tunnel: "2"}}
	want := []string{topology.SysctlForward4 + "=1"}
	if got := settings(s); !slices.Equal(got, want) {
		t.Errorf("without tunnels: %q, want %q", got, want)
	}
	s.Tunnels = []topology.Tunnel{{Name: topology.Tunnel4}}
	want = append([]string{loose + "=2"}, want...)
	if got := settings(s); !slices.Equal(got, want) {
		t.Errorf("with tunnels: %q, want %q", got, want)
	}
}

// A dry run also prints that the cleanup would be refused now.
func TestPrintRefusals(t *testing.T) {
	r := Result{
		DryRun: true, Removed: []plan.Key{{Kind: plan.KindRoute, Name: "10.244.1.0/24 via 192.168.1.12 dev eth0"}},
		Refusals: []string{"pods are attached to bridge plainroute0 (ports: 2); drain this node", "an agent runs on this node"},
	}
	var b strings.Builder
	if err := r.Print(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"WOULD BE REMOVED", "It would be refused now: pods are attached", "It would be refused now: an agent runs on this node.\n"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in:\n%s", want, b.String())
		}
	}
}
