//go:build linux

package main

import (
	"fmt"
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/plainroute/plainroute/pkg/doctor"
	"github.com/plainroute/plainroute/pkg/status"
	"github.com/plainroute/plainroute/pkg/topology"
)

// doctor reads only the foreign routes that can matter to the cluster, because there may be a million.
func TestConcernsOfTheDoctor(t *testing.T) {
	node := corev1.Node{Spec: corev1.NodeSpec{PodCIDR: "10.244.2.0/24"}}
	node.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.168.1.12"}}
	report := &status.Report{
		Host:  status.Host{Subnets: []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24")}, Addresses: []netip.Addr{netip.MustParseAddr("192.168.1.11")}},
		Peers: []status.Peer{{Node: "b", Subnet: netip.MustParsePrefix("10.245.2.0/24")}},
	}
	narrow := &status.Report{Host: status.Host{ClusterCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/14")}}}
	ours := topology.State{Routes: []*topology.Route{{Dst: netip.MustParsePrefix("10.9.0.0/24"), Via: netip.MustParseAddr("192.168.9.1")}}}
	for name, c := range map[string]struct {
		target *doctor.Target
		ours   topology.State
		want   string
	}{
		"nothing is known":  {&doctor.Target{}, topology.State{}, "[]"},
		"the Nodes":         {&doctor.Target{Nodes: []corev1.Node{node}}, topology.State{}, "[10.244.0.0/16 192.168.0.0/16]"},
		"the agent's word":  {&doctor.Target{Report: report}, topology.State{}, "[10.244.0.0/16 10.245.0.0/16 192.168.0.0/16]"},
		"by --cluster-cidr": {&doctor.Target{Report: narrow, Nodes: []corev1.Node{node}}, topology.State{}, "[10.244.0.0/14 192.168.0.0/16]"},
		"our routes alone":  {&doctor.Target{}, ours, "[10.9.0.0/24 192.168.0.0/16]"},
		"a route elsewhere": {&doctor.Target{Report: narrow}, ours, "[10.9.0.0/24 10.244.0.0/14 192.168.0.0/16]"},
	} {
		if got := fmt.Sprint(concerns(c.target, c.ours)); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}
