package doctor

import (
	"fmt"
	"strings"

	"github.com/plainroute/plainroute/pkg/inspect"
	"github.com/plainroute/plainroute/pkg/problem"
)

// deafPort returns what somebody has set of a port by bridge(8) so that a pod is not found, or not by itself.
func deafPort(port inspect.Port) []problem.Problem {
	shows := func(option string) string { return fmt.Sprintf("bridge -d link shows %s %s", port.Name, option) }
	set := func(option string) string { return "`bridge link set dev " + port.Name + " " + option + "`" }
	if port.BlockedBy != "" {
		option, value, _ := strings.Cut(port.BlockedBy, " ")
		other := map[string]string{"on": "off", "off": "on"}[value]
		return []problem.Problem{Fail("a pod is not found: its port in the pods' bridge does not let through what asks for it", shows(port.BlockedBy), set(option+" "+other))}
	}
	if port.NoHairpin && strings.HasPrefix(port.Name, "veth") {
		return []problem.Problem{Warn("a pod does not reach itself by a Service: its port in the pods' bridge sends nothing back", shows("hairpin off"), set("hairpin on"))}
	}
	return nil
}

// mutePorts are ports in the pods' bridge that do not forward all that pods send: the spanning tree protocol
// holds them back for half a minute, or somebody used bridge(8).
func (p *Patient) mutePorts() []problem.Problem {
	if p.Kernel == nil || p.State.Bridge == "" {
		return nil
	}
	ports, err := p.Kernel.Ports(p.State.Bridge)
	if err != nil {
		return Skip("the bridge's ports can't be looked at: "+err.Error(), "")
	}
	var found []problem.Problem
	var isolated []inspect.Port
	for _, port := range ports {
		if port.Isolated {
			isolated = append(isolated, port)
		}
		found = append(found, deafPort(port)...)
		if port.State == inspect.PortForwarding {
			continue
		}
		cure := fmt.Sprintf("`bridge link set dev %s state %d`", port.Name, inspect.PortForwarding)
		if port.State == inspect.PortListening || port.State == inspect.PortLearning {
			cure = "a pods' bridge needs no spanning tree protocol: `ip link set dev " + p.State.Bridge + " type bridge stp_state 0`, then " + cure
		}
		found = append(found, Fail("a pod is cut off: its port in the pods' bridge forwards nothing", fmt.Sprintf("bridge link shows %s in state %s", port.Name, port.State), cure))
	}
	if len(isolated) > 1 {
		for _, port := range isolated {
			found = append(found, Fail("a pod reaches not all pods of this node: its port in the pods' bridge is isolated", fmt.Sprintf("bridge -d link shows %s isolated on, as %d ports are", port.Name, len(isolated)),
				"`bridge link set dev "+port.Name+" isolated off`"))
		}
	}
	if len(found) > manyFindings {
		found = append(found[:manyFindings], Fail(fmt.Sprintf("%d more ports of the pods' bridge", len(found)-manyFindings), "", "see them all: `bridge -d link`"))
	}
	return found
}
