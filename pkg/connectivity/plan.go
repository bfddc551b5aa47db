package connectivity

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// task has the probes of one pod.
type task struct {
	pod, from string
	probes    []Probe
	targets   []string
}

// plan has the probes of all pods.
type plan struct {
	nodes []string
	tasks []task
}

func newPlan(pods []corev1.Pod, nodes []corev1.Node, services, names, outside []string) *plan {
	p := &plan{}
	for i := range pods {
		if node := pods[i].Spec.NodeName; !slices.Contains(p.nodes, node) {
			p.nodes = append(p.nodes, node)
		}
	}
	for i := range pods {
		if pods[i].Labels[groupLabel] == groups[0] {
			p.tasks = append(p.tasks, p.taskOf(&pods[i], pods, nodes, services, names, outside))
		}
	}
	return p
}

// taskOf has a pod probe those of its group on all other nodes, the other pod of its own node, and
// what is not a pod.
func (p *plan) taskOf(from *corev1.Pod, pods []corev1.Pod, nodes []corev1.Node, services, names, outside []string) task {
	t := task{pod: from.Name, from: from.Spec.NodeName}
	next := p.nodes[(slices.Index(p.nodes, t.from)+1)%len(p.nodes)]
	for i := range pods {
		to := &pods[i]
		same := to.Spec.NodeName == t.from
		if same == (to.Labels[groupLabel] == groups[0]) {
			continue
		}
		for _, ip := range to.Status.PodIPs {
			t.addPod(to.Spec.NodeName, ip.IP, to.Spec.NodeName == next)
		}
	}
	for i := range nodes {
		for _, a := range nodes[i].Status.Addresses {
			if a.Type == corev1.NodeInternalIP && hasFamily(from, a.Address) {
				t.add(Nodes+" "+nodes[i].Name, Probe{Reach, join(a.Address, kubeletPort)})
			}
		}
	}
	for _, ip := range services {
		if hasFamily(from, ip) {
			t.add(Services, Probe{TCP, join(ip, Port)})
		}
	}
	for _, name := range names {
		t.add(Names, Probe{Name, name})
	}
	for _, to := range outside {
		if !otherFamily(from, to) {
			t.add(Outside, Probe{Reach, to})
		}
	}
	return t
}

// kubeletPort has a listener on most nodes; on others the kernel refuses the connection.
const kubeletPort = 10250

// addPod adds probes of all kinds to a pod; bulk data only on request.
func (t *task) addPod(node, ip string, bulk bool) {
	for _, kind := range []Kind{TCP, UDP, MTU} {
		t.add(node, Probe{kind, join(ip, Port)})
	}
	t.add(node, Probe{Large, join(ip, FragmentPort)})
	if bulk {
		t.add(node, Probe{Bulk, join(ip, Port)})
	}
}

func (t *task) add(target string, p Probe) {
	t.probes, t.targets = append(t.probes, p), append(t.targets, target)
}

func join(ip string, port uint16) string {
	addr, err := netip.ParseAddr(ip)
	if err != nil {
		return ip
	}
	return netip.AddrPortFrom(addr, port).String()
}

// hasFamily reports whether a pod has an address of the family of another address.
func hasFamily(p *corev1.Pod, ip string) bool {
	to, err := netip.ParseAddr(ip)
	return err == nil && slices.ContainsFunc(p.Status.PodIPs, func(own corev1.PodIP) bool {
		addr, err := netip.ParseAddr(own.IP)
		return err == nil && addr.Is4() == to.Is4()
	})
}

// otherFamily reports whether a pod has no address of the family of ADDRESS:PORT; a name has none.
func otherFamily(p *corev1.Pod, to string) bool {
	at, err := netip.ParseAddrPort(to)
	return err == nil && !hasFamily(p, at.Addr().Unmap().String())
}

// untested returns the hosts outside that no pod can probe.
func untested(pods []corev1.Pod, outside []string) (skipped []string) {
	for _, to := range outside {
		if !slices.ContainsFunc(pods, func(p corev1.Pod) bool { return !otherFamily(&p, to) }) {
			skipped = append(skipped, to+": no pod has an address of its family")
		}
	}
	return skipped
}
