package doctor

import (
	"context"
	"fmt"
	"strings"
)

// traces are what other pod networks leave on a node, as they name it.
var traces = []struct {
	network string
	devices []string // names, or how they begin where they end in *
	cure    string
}{
	{"flannel", []string{"flannel.1", "flannel-v6.1", "cni0"}, "drain the node, ip link del DEVICE, and rm /etc/cni/net.d/10-flannel.conflist and /run/flannel"},
	{"Calico", []string{"cali*", "vxlan.calico", "tunl0.calico"}, "drain the node and reboot it, or ip link del DEVICE; rm /etc/cni/net.d/10-calico.conflist"},
	{"Cilium", []string{"cilium_*", "lxc*"}, "drain the node, cilium-dbg post-uninstall-cleanup, or reboot it; rm /etc/cni/net.d/05-cilium.conflist"},
	{"Weave", []string{"weave", "vxlan-6784", "vethwe*"}, "drain the node, ip link del DEVICE, and rm /etc/cni/net.d/10-weave.conflist"},
}

// leftovers looks for devices of other pod networks.
func leftovers(_ context.Context, p *Patient) []Finding {
	if p.Kernel == nil {
		return Skip("the kernel can't be looked at", "")
	}
	devices, err := p.Kernel.Devices()
	if err != nil {
		return Skip(err.Error(), "")
	}
	var found []Finding
	for _, t := range traces {
		var names []string
		for _, d := range devices {
			if matches(d.Name, t.devices) {
				names = append(names, d.Name)
			}
		}
		if len(names) > 0 {
			found = append(found, Warn(t.network+" was or is on this node, and may take its pods or their traffic", fmt.Sprintf("devices: %s", strings.Join(names, ", ")), t.cure))
		}
	}
	return found
}

func matches(name string, patterns []string) bool {
	for _, p := range patterns {
		if prefix, open := strings.CutSuffix(p, "*"); name == p || open && strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}
