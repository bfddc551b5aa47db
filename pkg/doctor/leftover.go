package doctor

import (
	"context"
	"os"
	"slices"

	"github.com/plainroute/plainroute/pkg/inspect"
	"github.com/plainroute/plainroute/pkg/problem"
)

// A podNetwork is what another pod network leaves on a node, by shell patterns of their names.
type podNetwork struct {
	network  string
	devices  []string
	tunnels  []string // devices into which other nodes may still send
	configs  []string // in the CNI folder
	chains   []string // of nftables, iptables-nft's too
	protocol uint8    // of its routes (rtm_protocol), 0 if it has none of its own
	idle     bool     // the objects are leftovers only while no pod is attached
	remedy   string
}

var podNetworks = []podNetwork{
	{
		network: "flannel", devices: []string{"flannel.*", "flannel-v6.*", "flannel-wg*", "cni0"}, configs: []string{"10-flannel.conf*"},
		tunnels: []string{"flannel.*", "flannel-v6.*", "flannel-wg*"}, chains: []string{"FLANNEL-*", "flannel-*"},
		remedy: "drain the node, rm /etc/cni/net.d/10-flannel.conflist, ip link del cni0; once that is done on all nodes, remove flannel's routes on all of them, and then flannel.1; docs/migrate-from-flannel.md has it step by step",
	},
	{
		network: "Calico", devices: []string{"cali*", "vxlan.calico", "vxlan-v6.calico", "wireguard.cali"}, configs: []string{"10-calico.conflist", "calico-kubeconfig"},
		tunnels: []string{"vxlan.calico", "vxlan-v6.calico", "wireguard.cali"}, chains: []string{"cali-*"}, protocol: 80,
		remedy: "drain the node, rm /etc/cni/net.d/10-calico.conflist and calico-kubeconfig, and reboot it, which removes its devices, routes and chains",
	},
	{
		network: "Cilium", devices: []string{"cilium_*", "lxc*"}, configs: []string{"05-cilium.conf*"}, chains: []string{"CILIUM_*"},
		remedy: "drain the node, rm /etc/cni/net.d/05-cilium.conflist, and reboot it, which removes its devices and programs",
	},
	{
		network: "Weave", devices: []string{"weave", "vxlan-6784", "vethwe*"}, tunnels: []string{"vxlan-6784"}, configs: []string{"10-weave.conf*"}, chains: []string{"WEAVE*"},
		remedy: "drain the node, rm /etc/cni/net.d/10-weave.conflist, and reboot it",
	},
	{
		network: "a host port of a pod that was never detached", chains: []string{"CNI-HOSTPORT-*", "CNI-DN-*", "CNI-SN-*"},
		idle: true, remedy: "no pod is attached here, so it is unused: nft list ruleset shows it, and a reboot removes it",
	},
}

// leftovers looks for objects that other pod networks have left, or make at this moment.
func leftovers(_ context.Context, t *Target) []problem.Problem {
	devices, err := t.Kernel.Devices()
	if err != nil {
		return Skip(err.Error(), "")
	}
	chains, err := t.Kernel.Chains()
	if err != nil {
		return Skip(err.Error(), "run it with CAP_NET_ADMIN")
	}
	names := slices.DeleteFunc(mapped(devices, func(d inspect.Device) string { return d.Name }), func(name string) bool {
		return name == t.Bridge // the agents' --bridge may be cni0
	})
	var found []problem.Problem
	for _, n := range podNetworks {
		if !n.idle || t.Host.Ports == 0 {
			found = append(found, warnIf(n.network+" is or was on this node, and may attach its pods or take their traffic", n.evidence(t, names, chains), n.remedy)...)
		}
	}
	return found
}

func (n podNetwork) evidence(t *Target, devices, chains []string) []string {
	var all []string
	entries, _ := os.ReadDir(t.Store.ConfDir) // the check cni-configs reports the error
	configs := mapped(entries, os.DirEntry.Name)
	for _, kind := range []struct {
		name           string
		have, patterns []string
	}{{"devices", devices, n.devices}, {"CNI configs", configs, n.configs}, {"chains", chains, n.chains}} {
		if names := matching(kind.have, kind.patterns); len(names) > 0 {
			all = append(all, kind.name+": "+named(names))
		}
	}
	for _, r := range t.Host.Routes {
		if n.protocol != 0 && r.Protocol == n.protocol {
			return append(all, "a route: "+r.String())
		}
	}
	return all
}

// matching returns the names that match one of the patterns.
func matching(names, patterns []string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(name string) bool { return !matchesAny(name, patterns) })
}
