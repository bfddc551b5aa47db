package dataplane

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/plan"
	"github.com/plainroute/plainroute/pkg/topology"
)

// Of each setting that a pass may ask for, the State has what the file has, also for a link made
// later.
func TestSettingsAreObserved(t *testing.T) {
	m := newMachine(t)
	m.settle(nodes(2))
	m.addVeth("eth7", 1500)
	m.addr("eth7", "192.168.7.11/24")
	m.Forget()
	paths := []string{topology.SysctlForward4, topology.SysctlForward6, topology.SysctlBridgeNF4, topology.SysctlBridgeNF6, topology.ConfSysctl(6, "all", "disable_ipv6")}
	for limit := 1; limit <= 3; limit++ {
		paths = append(paths, topology.NeighSysctl(4, limit), topology.NeighSysctl(6, limit))
	}
	for _, dev := range []string{"lo", "eth0", "eth7", topology.Bridge} {
		paths = append(paths, topology.ConfSysctl(4, dev, "forwarding"))
		for _, name := range []string{"forwarding", "accept_ra", "disable_ipv6"} {
			paths = append(paths, topology.ConfSysctl(6, dev, name))
		}
	}
	have := m.observe().Sysctls
	for _, path := range paths {
		_, err := os.Stat(m.sysctlFile(path))
		value, known := have[path]
		if known != (err == nil) || known && value != m.readSysctl(path) {
			t.Errorf("%s counts as %q, %v", path, value, known)
		}
	}
}

// Routes that a pass added, changed or deleted are kept without another read.
func TestWrittenRoutesAreKnown(t *testing.T) {
	m := newMachine(t)
	m.settle(nodes(2))
	route := topology.Route{
		Dst: netip.MustParsePrefix("10.128.77.0/24"), Via: netip.MustParseAddr("192.168.1.77"), Dev: "eth0", Protocol: topology.Protocol, Metric: topology.PeerMetric(netip.MustParsePrefix("10.128.77.0/24")),
	}
	changed := route
	changed.Via = netip.MustParseAddr("192.168.1.78")
	m.observe()
	for _, step := range []struct {
		changes plan.Changes
		want    topology.Route
	}{
		{routes(plan.Add, route), route},
		{routes(plan.Replace, changed), changed},
		{routes(plan.Delete, changed), topology.Route{}},
	} {
		m.must(m.Apply(t.Context(), step.changes))
		var got topology.Route
		if r := topology.RouteTo(m.routes.ours, route.Dst, route.Metric); r != nil {
			got = *r
		}
		if got != step.want {
			t.Errorf("after %+v, %q is known, want %q", step.changes, got, step.want)
		}
		m.Forget()
		if got := slices.Contains(values(m.observe().Routes), step.want); got != step.want.Dst.IsValid() {
			t.Errorf("after %+v the kernel has %v", step.changes, m.observe().Routes)
		}
	}
}

// Attributes are read up to the first broken one, which is reported.
func TestBrokenAttributesAreReported(t *testing.T) {
	attribute := func(length, kind uint16, value ...byte) []byte {
		return append(binary.NativeEndian.AppendUint16(binary.NativeEndian.AppendUint16(nil, length), kind), value...)
	}
	good := attribute(8, 7, 1, 2, 3, 4)
	for name, c := range map[string]struct {
		bytes []byte
		read  string
		whole bool
	}{
		"none":                {nil, "", true},
		"one":                 {good, "7:[1 2 3 4] ", true},
		"padded":              {append(attribute(5, 6, 9, 0, 0, 0), good...), "6:[9] 7:[1 2 3 4] ", true},
		"the last not padded": {attribute(5, 6, 9), "6:[9] ", true},
		"empty":               {attribute(4, 5), "5:[] ", true},
		"nested":              {attribute(4, 5|unix.NLA_F_NESTED), "5:[] ", true},
		"shorter than itself": {append(slices.Clone(good), attribute(3, 5)...), "7:[1 2 3 4] ", false},
		"longer than all":     {append(slices.Clone(good), attribute(9, 5, 1, 2, 3, 4)...), "7:[1 2 3 4] ", false},
	} {
		read := ""
		whole := eachAttribute(c.bytes, func(kind uint16, value []byte) { read += fmt.Sprintf("%d:%v ", kind, value) })
		if read != c.read || whole != c.whole {
			t.Errorf("%s: read %q, whole %v", name, read, whole)
		}
	}
}

// A message that is too short is not a flow.
func TestFlowOfTooFewBytes(t *testing.T) {
	for n := range 4 {
		if f, ok := parseFlow(make([]byte, n)); ok {
			t.Errorf("%d bytes are a flow: %+v", n, f)
		}
	}
	if _, ok := parseFlow(make([]byte, 4)); ok {
		t.Error("a header alone is a flow")
	}
}

// A bridge whose ARP is switched off has it on again.
func TestARPIsSwitchedOn(t *testing.T) {
	m := newMachine(t)
	m.settle(nodes(2))
	m.must(m.nl.LinkSetARPOff(m.link(topology.Bridge)))
	m.settle(nodes(2))
	if m.link(topology.Bridge).Attrs().RawFlags&unix.IFF_NOARP != 0 {
		t.Error("it is off still")
	}
}
