package dataplane

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/plan"
	"github.com/plainroute/plainroute/pkg/topology"
)

// Refusals are reported by key, and the config is not written: here all that takes CAP_NET_ADMIN.
func TestEachRefusalIsReported(t *testing.T) {
	m := newMachine(t)
	m.settle(nodes(3))
	m.settle(nodes(3))
	addr := netip.MustParseAddr("192.168.1.99")
	dst := netip.MustParsePrefix("10.128.9.0/24")
	route := topology.Route{Dst: dst, Via: addr, Dev: "eth0", Protocol: topology.Protocol, Metric: topology.PeerMetric(dst)}
	gateway := topology.Address{Dev: topology.Bridge, Prefix: netip.MustParsePrefix("10.128.9.1/24")}
	bridge := topology.Device{Name: topology.Bridge, MAC: "0a:58:00:00:00:01", MTU: 1400, Up: true}
	there := m.observe()
	withoutNetAdmin(t)
	const table = "nftables table plainroute"
	for name, c := range map[string]struct {
		changes plan.Changes
		keys    []string
		message string
	}{
		"bridge":           {plan.Of(plan.Add, plan.Bridge{Device: bridge}), []string{"bridge plainroute0"}, "adding bridge plainroute0: "},
		"MTU":              {plan.Of(plan.Replace, plan.MTU{Dev: bridge.Name, Bytes: bridge.MTU}), []string{"device plainroute0"}, "setting the MTU of plainroute0 from "},
		"address":          {addresses(plan.Add, gateway), []string{"address " + gateway.String()}, "adding address "},
		"former address":   {addresses(plan.Delete, there.Addresses[:1]...), []string{"address " + there.Addresses[0].String()}, "deleting address "},
		"bridge to delete": {plan.Of(plan.Delete, plan.Bridge{Device: topology.Device{Name: topology.Bridge}}), []string{"bridge plainroute0"}, "deleting bridge plainroute0: "},
		"table":            {plan.Of(plan.Replace, plan.Table{Masquerade: there.Masquerade}), []string{table}, "changing nftables table plainroute: "},
		"wider sets":       {sets(plan.Add, plan.SetChange{AddNodes: []netip.Addr{addr}}), []string{table}, "the agent needs CAP_NET_ADMIN"},
		"wider ranges":     {sets(plan.Add, plan.SetChange{AddCluster: []netip.Prefix{dst}}), []string{table}, "the agent needs CAP_NET_ADMIN"},
		"narrower sets":    {sets(plan.Delete, plan.SetChange{DeleteNodes: there.Masquerade.Nodes[:1]}), []string{table}, "the agent needs CAP_NET_ADMIN"},
		"narrower ranges":  {sets(plan.Delete, plan.SetChange{DeleteCluster: there.Masquerade.Cluster[:1]}), []string{table}, "the agent needs CAP_NET_ADMIN"},
		"table to delete":  {plan.Of(plan.Delete, plan.Table{}), []string{table}, "changing nftables table plainroute: "},
		"route":            {routes(plan.Add, route), nil, `adding route "10.128.9.0/24 via 192.168.1.99 dev eth0 proto 112 metric 2179": `},
		"changed route":    {routes(plan.Replace, values(there.Routes[:1])...), nil, "changing route "},
		"route to delete":  {routes(plan.Delete, values(there.Routes[:1])...), nil, "deleting route "},
	} {
		conf := plan.Config{CNI: &topology.CNI{Bridge: topology.Bridge, MTU: 1234, Subnets: []netip.Prefix{dst}}}
		err := m.Apply(t.Context(), c.changes.With(plan.Of(plan.Replace, conf)...))
		if err == nil || !errors.Is(err, unix.EPERM) || !strings.Contains(err.Error(), c.message) {
			t.Errorf("%s: the error is %v", name, err)
		}
		if got := failedKeys(err); !slices.Equal(got, c.keys) {
			t.Errorf("%s: failed are %q, want %q", name, got, c.keys)
		}
		if m.Config().MTU == 1234 {
			t.Errorf("%s: the config was written", name)
		}
	}
	if now := m.table(); !slices.Equal(now.Nodes, there.Masquerade.Nodes) || !slices.Equal(now.Cluster, there.Masquerade.Cluster) {
		t.Errorf("the table counts as %+v", now)
	}
}

// failedKeys lists those of all PartErrors in an error, in their order.
func failedKeys(err error) (keys []string) {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range joined.Unwrap() {
			keys = append(keys, failedKeys(e)...)
		}
		return keys
	}
	if part := new(PartError); errors.As(err, &part) {
		keys = append(keys, part.FailedKey().String())
	}
	return keys
}

// withoutNetAdmin takes the capability from the thread, which ends with the test.
func withoutNetAdmin(t *testing.T) {
	t.Helper()
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		t.Fatal(err)
	}
	data[0].Effective &^= 1 << unix.CAP_NET_ADMIN
	if err := unix.Capset(&header, &data[0]); err != nil {
		t.Fatal(err)
	}
}
