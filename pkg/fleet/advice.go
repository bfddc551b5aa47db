package fleet

import (
	"github.com/plainroute/plainroute/pkg/status"
)

// adviceOfLog is for what nobody has words for.
const adviceOfLog = "See the agent's log (kubectl logs), and run plainroute doctor in its pod."

// adviceOfRuntime is for a node that the kubelet calls not ready, though the agent has done its part.
const adviceOfRuntime = "Right after an install it passes within seconds. If it speaks of CNI or the network and stays so, the container runtime reads " +
	"its configs from another folder than the agent writes them to (the chart's cni.confDir; k3s and MicroK8s have their own); else see the kubelet's log."

// Advice says what to do about an agent of which there is no Report. Where the words themselves lead to the cure there
// is none.
func (s Silence) Advice() string {
	switch s {
	case NoAgent:
		return "See why the DaemonSet makes no pod there (kubectl describe daemonset): its nodeSelector or affinity leaves the node out, or pods are refused. Routes stay as they were meanwhile."
	case NotRunning:
		return "See the pod (kubectl describe pod) and its log: the image must have been brought to the node, and the flags be right. Routes stay as they were meanwhile."
	case NoAnswer:
		return "See whether the node's kubelet is up and the API server reaches it (port 10250). If so the agent hangs: delete its pod, which cuts no traffic. Routes stay as they were meanwhile."
	case Unreadable:
		return "Use the plainroute of the agents' version."
	}
	return ""
}

// ofPeer says what to do about a peer without a good route.
func ofPeer(p *status.Peer) string {
	for _, reason := range p.Reason {
		if advice := reason.Advice(); advice != "" {
			return advice
		}
	}
	if p.State == status.Lost {
		return status.DriftAdvice
	}
	return adviceOfLog
}

// advice says what to do about a Fault of the kind.
func (k FaultKind) advice() string {
	switch k {
	case Asymmetry:
		return "Mend what the Node without the route complains of, above; if its agent says nothing, that first."
	case Disagreement:
		return "An agent that says otherwise than most has an old view of the Nodes: see whether it hears of the API server (plainroute status there). If all do, two Nodes claim the subnet: delete the wrong one, and restart its kubelet, which registers it anew."
	case Oversize:
		return "Give the links of all Nodes one MTU (ip link set DEV mtu SIZE, and where the link is configured), or all agents the --mtu that fits the smallest; pods made from then on have it."
	case Versions:
		return "Nothing while an update rolls on. If none does: kubectl rollout status daemonset, and an image of the same tag on each node."
	}
	return ""
}
