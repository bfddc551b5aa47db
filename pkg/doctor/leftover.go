package doctor

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/plainroute/plainroute/pkg/problem"
)

// trace is what another pod network leaves on a node, as it names it. A name that ends
// in * is how such names begin.
type trace struct {
	network string
	devices []string
	// tunnels are those of the devices into which other nodes may still send.
	tunnels []string
	configs []string // in the CNI folder
	chains  []string // of nftables, iptables-nft's too
	// protocol is that of its routes (rtm_protocol); 0: none of its own.
	protocol int
	// idle tells that it means something only while no pod is attached.
	idle bool
	cure string
}

var traces = []trace{
	{
		network: "flannel", devices: []string{"flannel.*", "flannel-v6.*", "flannel-wg*", "cni0"}, configs: []string{"10-flannel.conf*"},
		tunnels: []string{"flannel.*", "flannel-v6.*", "flannel-wg*"}, chains: []string{"FLANNEL-*", "flannel-*"},
		cure: "drain the node, rm /etc/cni/net.d/10-flannel.conflist, ip link del cni0; once that is done on all nodes, remove flannel's routes on all of them, and then flannel.1; docs/migrate-from-flannel.md has it step by step",
	},
	{
		network: "Calico", devices: []string{"cali*", "vxlan.calico", "vxlan-v6.calico", "wireguard.cali"}, configs: []string{"10-calico.conflist", "calico-kubeconfig"},
		tunnels: []string{"vxlan.calico", "vxlan-v6.calico", "wireguard.cali"}, chains: []string{"cali-*"}, protocol: 80,
		cure: "drain the node, rm /etc/cni/net.d/10-calico.conflist and calico-kubeconfig, and reboot it, which takes its devices, routes and chains away",
	},
	{
		network: "Cilium", devices: []string{"cilium_*", "lxc*"}, configs: []string{"05-cilium.conf*"}, chains: []string{"CILIUM_*"},
		cure: "drain the node, rm /etc/cni/net.d/05-cilium.conflist, and reboot it, which takes its devices and programs away",
	},
	{
		network: "Weave", devices: []string{"weave", "vxlan-6784", "vethwe*"}, tunnels: []string{"vxlan-6784"}, configs: []string{"10-weave.conf*"}, chains: []string{"WEAVE*"},
		cure: "drain the node, rm /etc/cni/net.d/10-weave.conflist, and reboot it",
	},
	{
		network: "a host port of a pod that nobody detached", chains: []string{"CNI-HOSTPORT-*", "CNI-DN-*", "CNI-SN-*"},
		idle: true,
		cure: "no pod is attached here, so nobody uses it: nft list ruleset shows it, and a reboot takes it away",
	},
}

// leftovers looks for what other pod networks have left, or make at this moment.
func leftovers(_ context.Context, p *Patient) []problem.Problem {
	if p.Kernel == nil || p.KernelErr != nil {
		return Skip("the kernel can't be looked at", "")
	}
	devices, err := p.Kernel.Devices()
	if err != nil {
		return Skip(err.Error(), "")
	}
	chains, err := p.Kernel.Chains()
	if err != nil {
		return Skip(err.Error(), "run it with CAP_NET_ADMIN")
	}
	names := make([]string, 0, len(devices))
	for _, d := range devices {
		if d.Name != p.Bridge { // the agents' --bridge may be cni0
			names = append(names, d.Name)
		}
	}
	var found []problem.Problem
	for _, t := range traces {
		if t.idle && p.Host.Ports > 0 {
			continue
		}
		if evidence := t.evidence(p, names, chains); len(evidence) > 0 {
			found = append(found, Warn(t.network+" was or is on this node, and may take its pods or their traffic", strings.Join(evidence, "; "), t.cure))
		}
	}
	return found
}

func (t trace) evidence(p *Patient, devices, chains []string) []string {
	var all []string
	for _, kind := range []struct {
		name           string
		have, patterns []string
	}{{"devices", devices, t.devices}, {"CNI configs", configs(p), t.configs}, {"chains", chains, t.chains}} {
		if names := matching(kind.have, kind.patterns); len(names) > 0 {
			all = append(all, kind.name+": "+few(names))
		}
	}
	for _, r := range p.Host.Routes {
		if t.protocol != 0 && r.Protocol == t.protocol {
			return append(all, "a route: "+r.String())
		}
	}
	return all
}

// configs are the files of the CNI folder. One that can't be read has none: cni-configs
// says so.
func configs(p *Patient) []string {
	entries, err := os.ReadDir(p.Store.ConfDir)
	if err != nil {
		return nil
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// few names the first of many.
func few(names []string) string {
	const most = 5
	if len(names) <= most {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
}

func matching(names, patterns []string) []string {
	var all []string
	for _, name := range names {
		for _, p := range patterns {
			if prefix, open := strings.CutSuffix(p, "*"); name == p || open && strings.HasPrefix(name, prefix) {
				all = append(all, name)
				break
			}
		}
	}
	return all
}
