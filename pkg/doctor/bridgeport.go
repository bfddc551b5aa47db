package doctor

import (
	"fmt"
	"strings"

	"github.com/plainroute/plainroute/pkg/inspect"
	"github.com/plainroute/plainroute/pkg/problem"
)

// blockedPort reports a port option, set by bridge(8), that hides a pod from others or from itself.
func blockedPort(port inspect.Port) []problem.Problem {
	shows := func(option string) string { return fmt.Sprintf("bridge -d link shows %s %s", port.Name, option) }
	set := func(option string) string { return "`bridge link set dev " + port.Name + " " + option + "`" }
	if port.BlockedBy != "" {
		option, value, _ := strings.Cut(port.BlockedBy, " ")
		other := map[string]string{"on": "off", "off": "on"}[value]
		return []problem.Problem{Fail("a pod is not found: its port in the pods' bridge drops ARP or neighbor discovery", shows(port.BlockedBy), set(option+" "+other))}
	}
	if port.NoHairpin && strings.HasPrefix(port.Name, "veth") {
		return []problem.Problem{Warn("a pod does not reach itself by a Service: its port in the pods' bridge has no hairpin mode", shows("hairpin off"), set("hairpin on"))}
	}
	return nil
}

// nonForwardingPorts reports ports of the bridge that drop packets of pods: the spanning tree
// protocol blocks a port for half a minute, and options of bridge(8) block or isolate it.
func (t *Target) nonForwardingPorts() []problem.Problem {
	if t.Kernel == nil || t.State.Bridge == "" {
		return nil
	}
	ports, err := t.Kernel.Ports(t.State.Bridge)
	if err != nil {
		return Skip("the bridge's ports can't be looked at: "+err.Error(), "")
	}
	var found []problem.Problem
	var isolated []inspect.Port
	for _, port := range ports {
		if port.Isolated {
			isolated = append(isolated, port)
		}
		found = append(found, blockedPort(port)...)
		if port.State == inspect.PortForwarding {
			continue
		}
		remedy := fmt.Sprintf("`bridge link set dev %s state %d`", port.Name, inspect.PortForwarding)
		if port.State == inspect.PortListening || port.State == inspect.PortLearning {
			remedy = "the pods' bridge needs no spanning tree protocol: `ip link set dev " + t.State.Bridge + " type bridge stp_state 0`, then " + remedy
		}
		found = append(found, Fail("a pod is cut off: its port in the pods' bridge forwards nothing", fmt.Sprintf("bridge link shows %s in state %s", port.Name, port.State), remedy))
	}
	if len(isolated) > 1 {
		for _, port := range isolated {
			found = append(found, Fail("a pod does not reach all pods of this node: its port in the pods' bridge is isolated", fmt.Sprintf("bridge -d link shows %s isolated on, as %d ports are", port.Name, len(isolated)),
				"`bridge link set dev "+port.Name+" isolated off`"))
		}
	}
	if len(found) > maxProblems {
		found = append(found[:maxProblems], Fail(fmt.Sprintf("%d more ports of the pods' bridge", len(found)-maxProblems), "", "see them all: `bridge -d link`"))
	}
	return found
}
