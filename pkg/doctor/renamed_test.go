package doctor

import (
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/topology"
)

// A renamed bridge is one problem, whose remediation restores the name. Its address and its routes
// are not reported as another network's.
func TestRenamedBridge(t *testing.T) {
	w := newDualTestbed(t)
	bridge, err := w.nl.LinkByName(topology.Bridge)
	w.must(err)
	mac, err := net.ParseMAC("0a:58:fe:d3:02:e2") // which the agent derives from 10.244.1.0/24
	w.must(err)
	w.must(w.nl.LinkSetHardwareAddr(bridge, mac))
	w.look()
	before := w.failing()
	w.must(w.nl.LinkSetDown(bridge))
	w.must(w.nl.LinkSetName(bridge, "br-old"))
	w.must(w.nl.LinkSetUp(bridge))
	w.look()
	if f := w.finds("bridge-address", problem.Error); !strings.Contains(f.Message, "was renamed") || !strings.HasPrefix(f.Remediation, "`ip link set dev br-old name "+topology.Bridge+"`") {
		t.Errorf("found %+v", f)
	}
	more := slices.DeleteFunc(w.failing(), func(name string) bool { return slices.Contains(before, name) })
	if !slices.Equal(more, []string{"bridge-address"}) {
		t.Errorf("by the new name these checks fail: %v", more)
	}
}

// failing returns the names of the checks that fail.
func (w *testbed) failing() []string {
	var names []string
	for _, c := range Checks() {
		if slices.ContainsFunc(c.Run(w.t.Context(), w.Target), func(f problem.Problem) bool { return f.Severity == problem.Error }) {
			names = append(names, c.Name)
		}
	}
	return names
}

// The leases of pods on a renamed bridge are not leaked.
func TestLeasesUnderRenamedBridge(t *testing.T) {
	h := newHost(t)
	h.pod("web")
	h.pod("db")
	bridge, err := h.nl.LinkByName(topology.Bridge)
	h.must(err)
	mac, err := net.ParseMAC("0a:58:fe:d3:02:e2") // which the agent derives from 10.244.1.0/24
	h.must(err)
	h.must(h.nl.LinkSetHardwareAddr(bridge, mac))
	h.must(h.nl.LinkSetDown(bridge))
	h.must(h.nl.LinkSetName(bridge, "br-old"))
	h.must(h.nl.LinkSetUp(bridge))
	t.Cleanup(func() { h.must(h.nl.LinkDel(bridge)) })
	finds(t, runCheck(t, "leases", h.look()), problem.Unknown, "renamed to br-old", "bridge-address")
}
