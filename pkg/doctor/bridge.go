package doctor

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/plainroute/plainroute/pkg/inspect"
	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/topology"
)

// bridgeAddress compares the bridge's addresses, the pods' gateways, with this node's pod subnets.
func bridgeAddress(_ context.Context, t *Target) []problem.Problem {
	if name := t.renamedBridge(); name != "" {
		return Fail("the pods' bridge was renamed, so the next pod is attached to a new one, without a connection to the others", "its name is "+name,
			fmt.Sprintf("`ip link set dev %s name %s` (before Linux 6.2 it has to be down for that; the agent sets it up again)", name, t.Bridge))
	}
	found := slices.Concat(t.overlappingDevices(), t.detachedPorts(), t.nonForwardingPorts(), t.bridgeMTU(), t.largerPorts())
	if t.State.Bridge == "" || t.subnetChanges() {
		return found // no pod was attached yet, or the check old-subnet covers it
	}
	have := append(mapped(t.State.Addresses, topology.Address.String), "nothing else")
	for _, a := range t.State.Addresses {
		if !within(t.ownSubnets(), a.Prefix.Addr()) {
			found = append(found, Fail("the pods' bridge has an address that is not of this node's pod subnets", a.String()+t.theSubnetsAre(),
				"if the Node was recreated, delete the pods that are older than it, and the agent deletes the address; or: `ip address del "+a.String()+"`")...)
		}
	}
	for _, s := range t.ownSubnets() {
		want := topology.Address{Dev: t.State.Bridge, Prefix: netip.PrefixFrom(topology.Gateway(s), s.Bits())}
		if !slices.Contains(t.State.Addresses, want) {
			found = append(found, Fail("the pods' bridge lacks the address that is the pods' gateway, so they reach nothing beyond this node", fmt.Sprintf("%s is missing; there is %s", want, strings.Join(have, ", ")),
				restores+"`ip address add "+want.String()+"`")...)
		}
	}
	return found
}

const restores = "the agent restores it at once: check whether the agent runs; or: "

// renamedBridge returns the present name of the pods' bridge if it was renamed, else "".
func (t *Target) renamedBridge() string { return t.Host.RenamedBridge(t.Bridge, t.ownSubnets(), "") }

// subnetChanges reports whether the agent leaves the bridge as it is until the last pod of a former
// subnet is gone, because without its address the bridge would cut off that pod.
func (t *Target) subnetChanges() bool {
	return t.Report != nil && slices.ContainsFunc(t.Report.Problems, func(p problem.Problem) bool { return p.Reason == problem.SubnetChanged })
}

// detachedPorts reports a bridge that is down, and ports of pods that are down or not in the bridge.
func (t *Target) detachedPorts() []problem.Problem {
	var found []problem.Problem
	for _, d := range t.State.Devices {
		evidence := fmt.Sprintf("%s leads to the pod %s, and ip link shows %s", d.Name, d.Pod, d)
		switch {
		case d.Name == t.State.Bridge && !d.Up:
			found = append(found, Fail("the pods' bridge is down, so this node's pods reach nothing", "ip link shows "+d.String(), restores+"`ip link set dev "+d.Name+" up`")...)
		case d.Pod.IsValid() && (d.Duplicate != "" || d.Master != "" && d.Master != t.Bridge):
			found = append(found, Warn("a container that is not in the pods' bridge has a pod's address", evidence,
				"find the container: one of another network may have added that address, which has to be removed there. If it is the pod's own, delete the pod, because the new one's port is in the bridge")...)
		case d.Pod.IsValid():
			found = append(found, Fail("a pod is cut off: its port is not in the pods' bridge, or down", evidence,
				fmt.Sprintf(restores+"`ip link set dev %s master %s up; ip link set dev %s type bridge_slave hairpin on`", d.Name, t.Bridge, d.Name))...)
		}
	}
	return found
}

// bridgeMTU reports a smaller MTU than that of new pods. The kernel gives a bridge the least MTU of
// its ports, unless it was set since, and without a port 1500 (br_mtu_auto_adjust of net/bridge/br_if.c).
func (t *Target) bridgeMTU() []problem.Problem {
	for _, d := range t.State.Devices {
		if size := t.podMTU(); d.Name == t.State.Bridge && 0 < d.MTU && d.MTU < size && t.Host.Ports > 0 {
			return Warn("the pods' bridge has a smaller MTU than new pods, so fragments and large datagrams to them are lost", fmt.Sprintf("%s has an MTU of %d, and new pods have %d", d.Name, d.MTU, size),
				fmt.Sprintf("recreate the pods that are older than the change of the MTU; if the bridge still has its own: `ip link set dev %s mtu %d`", d.Name, size))
		}
	}
	return nil
}

// largerPorts reports pods that are older than the change of the MTU. Packets between pods of one
// node cross no router that could answer those that are too large.
func (t *Target) largerPorts() []problem.Problem {
	size := t.podMTU()
	if t.Kernel == nil || t.State.Bridge == "" || size == 0 {
		return nil
	}
	ports, _ := t.Kernel.Ports(t.State.Bridge) // nonForwardingPorts reports the error
	var larger []string
	for _, port := range ports {
		if port.MTU > size {
			larger = append(larger, fmt.Sprintf("%s mtu %d", port.Name, port.MTU))
		}
	}
	if len(larger) == 0 {
		return nil
	}
	return Warn("pods that are older than the change of the MTU lose large datagrams to newer pods of this node", fmt.Sprintf("new pods have an MTU of %d; ip link shows %s", size, first(larger)),
		"recreate the older pods; TCP works meanwhile")
}

// overlappingDevices reports devices, such as another network's cni0, that get our pods' packets.
func (t *Target) overlappingDevices() []problem.Problem {
	var found []problem.Problem
	for _, link := range t.Host.Links {
		for _, a := range link.Addrs {
			if link.Name != t.Bridge && !link.Loopback && within(t.ownSubnets(), a.Addr()) {
				found = append(found, Fail("another device has an address of this node's pod subnets, and receives packets for the pods", fmt.Sprintf("%s dev %s", a, link.Name), deviceRemedy(link.Name))...)
			}
		}
	}
	return found
}

// deviceRemedy deletes only what a pod network leaves behind, because other devices may be needed.
func deviceRemedy(dev string) string {
	for _, n := range podNetworks {
		if matchesAny(dev, n.tunnels) {
			return "it is left of " + n.network + ", and other nodes may still send into it: " + n.remedy
		}
		if matchesAny(dev, n.devices) {
			return "it is left of " + n.network + "; once no pod uses it: `ip link del " + dev + "`"
		}
	}
	return "give the pods another range (--cluster-cidr of the controller manager), or the network of " + dev + "; leave the device as it is, because this node may be reached by it"
}

// nonForwardingPorts reports ports of the bridge that drop packets of pods: the spanning tree
// protocol blocks a port for half a minute, and options of bridge(8) block or isolate it.
func (t *Target) nonForwardingPorts() []problem.Problem {
	if t.Kernel == nil || t.State.Bridge == "" {
		return nil
	}
	ports, err := t.Kernel.Ports(t.State.Bridge)
	if err != nil {
		return Skip("the bridge's ports can't be read: "+err.Error(), "")
	}
	var found []problem.Problem
	isolated := slices.DeleteFunc(slices.Clone(ports), func(p inspect.Port) bool { return !p.Isolated })
	for _, port := range ports {
		found = append(found, blockedPort(port)...)
		if port.State == inspect.PortForwarding {
			continue
		}
		remedy := fmt.Sprintf("`bridge link set dev %s state %d`", port.Name, inspect.PortForwarding)
		if port.State == inspect.PortListening || port.State == inspect.PortLearning {
			remedy = "the pods' bridge needs no spanning tree protocol: `ip link set dev " + t.State.Bridge + " type bridge stp_state 0`, then " + remedy
		}
		found = append(found, Fail("a pod is cut off: its port in the pods' bridge forwards nothing", fmt.Sprintf("bridge link shows %s in state %s", port.Name, port.State), remedy)...)
	}
	for _, port := range isolated {
		if len(isolated) > 1 {
			found = append(found, Fail("a pod does not reach all pods of this node: its port in the pods' bridge is isolated", fmt.Sprintf("bridge -d link shows %s isolated on, as %d ports are", port.Name, len(isolated)),
				"`bridge link set dev "+port.Name+" isolated off`")...)
		}
	}
	return capped(found, "ports of the pods' bridge", "`bridge -d link`")
}

// blockedPort reports a port option, set by bridge(8), that hides a pod from others or from itself.
func blockedPort(port inspect.Port) []problem.Problem {
	shows := "bridge -d link shows " + port.Name + " "
	set := "`bridge link set dev " + port.Name + " "
	if option, value, _ := strings.Cut(port.BlockedBy, " "); option != "" {
		other := map[string]string{"on": "off", "off": "on"}[value]
		return Fail("a pod is not found: its port in the pods' bridge drops ARP or neighbor discovery", shows+port.BlockedBy, set+option+" "+other+"`")
	}
	if port.NoHairpin && strings.HasPrefix(port.Name, "veth") {
		return Warn("a pod does not reach itself by a Service: its port in the pods' bridge has no hairpin mode", shows+"hairpin off", set+"hairpin on`")
	}
	return nil
}
