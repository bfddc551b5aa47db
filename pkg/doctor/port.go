package doctor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/topology"
)

// door is a TCP port that a cluster needs open from here.
type door struct {
	node, service, at string
	// closed is how bad it is if nobody listens, barred if nobody answers. OK: that is
	// as it may be.
	closed, barred problem.Severity
}

// outcome is what came of knocking.
type outcome string

const (
	open        outcome = "open"
	refused     outcome = "refused: the machine answers, and nobody listens there"
	silence     outcome = "no answer: a firewall drops it, or nobody is there"
	unreachable outcome = "unreachable"
)

// knocking is how long a port may take to answer, and abreast how many are asked at a time.
const (
	knocking = 2 * time.Second
	abreast  = 64
)

// ports knocks at those of the control plane and of kubelets.
func ports(ctx context.Context, p *Patient) []problem.Problem {
	doors := append(p.serverDoor(), p.kubeletDoors()...)
	doors = append(doors, p.controlPlaneDoors()...)
	if len(doors) == 0 {
		return Skip("neither the API server nor the other Nodes are known: "+errorText(p.NodesErr), "run it in the agent's pod, or give --kubeconfig FILE")
	}
	return judgeDoors(doors, knock(ctx, doors))
}

// serverDoor is where the API server is asked, through a Service's address in a pod.
func (p *Patient) serverDoor() []door {
	if p.API == nil {
		return nil
	}
	url, _, err := rest.DefaultServerUrlFor(p.API)
	if err != nil {
		return nil
	}
	port := url.Port()
	if port == "" {
		port = map[bool]string{true: "443", false: "80"}[url.Scheme == "https"]
	}
	return []door{{"the API server", "API server", net.JoinHostPort(url.Hostname(), port), problem.Error, problem.Error}}
}

// kubeletDoors are of a sample. Where the API server runs they are needed for logs,
// exec and webhooks; elsewhere they show whether a firewall is between the nodes.
func (p *Patient) kubeletDoors() []door {
	verdict := problem.Warning
	if own := p.OwnNode(); own != nil && controlPlane(own) {
		verdict = problem.Error
	}
	var doors []door
	for _, n := range p.others(sampled, ready) {
		port := n.Status.DaemonEndpoints.KubeletEndpoint.Port
		if port == 0 {
			port = 10250 // KubeletPort of k8s.io/kubernetes/pkg/cluster/ports
		}
		doors = append(doors, door{n.Name, "kubelet", at(n, port), verdict, verdict})
	}
	return doors
}

// controlPlaneDoors are the API servers that Services lead to, and, where this node is
// of the control plane too, etcd, controller manager and scheduler. Those may listen on
// the loopback alone, so only silence is told: it is a firewall's.
func (p *Patient) controlPlaneDoors() []door {
	own := p.OwnNode()
	var doors []door
	for _, n := range p.others(sampled, func(n *corev1.Node) bool { return controlPlane(n) && ready(n) }) {
		doors = append(doors, door{n.Name, "API server", at(n, p.serverPort(n)), problem.Warning, problem.Warning})
		if own == nil || !controlPlane(own) {
			continue
		}
		for _, inner := range []struct {
			service string
			port    int32
		}{{"etcd's clients", 2379}, {"etcd's peers", 2380}, {"controller manager", 10257}, {"scheduler", 10259}} {
			doors = append(doors, door{n.Name, inner.service, at(n, inner.port), problem.None, problem.Warning})
		}
	}
	return doors
}

// serverPort is that of the kubeconfig where it names this very Node, else the usual one.
func (p *Patient) serverPort(n *corev1.Node) int32 {
	for _, d := range p.serverDoor() {
		host, port, err := net.SplitHostPort(d.at)
		addr, parse := netip.ParseAddr(host)
		if number, convert := strconv.ParseUint(port, 10, 16); errors.Join(err, parse, convert) == nil && slices.Contains(topology.NodeFrom(n).Addrs, addr) {
			return int32(number)
		}
	}
	return 6443 // kubeadm's --apiserver-bind-port
}

func controlPlane(n *corev1.Node) bool {
	_, is := n.Labels["node-role.kubernetes.io/control-plane"]
	return is
}

// others are machines but our own that have an address, so many at most.
func (p *Patient) others(limit int, which func(*corev1.Node) bool) []*corev1.Node {
	var all []*corev1.Node
	for i := range p.Nodes {
		if n := &p.Nodes[i]; which(n) && !p.isOwn(n) && !virtual(n) && len(topology.NodeFrom(n).Addrs) > 0 {
			all = append(all, n)
		}
	}
	return spread(all, limit, func(*corev1.Node) bool { return false })
}

func at(n *corev1.Node, port int32) string {
	return net.JoinHostPort(topology.NodeFrom(n).Addrs[0].String(), strconv.Itoa(int(port)))
}

// knock tries all doors.
func knock(ctx context.Context, doors []door) []outcome {
	outcomes := make([]outcome, len(doors))
	var all errgroup.Group
	all.SetLimit(abreast)
	for i, d := range doors {
		all.Go(func() error {
			dialer := net.Dialer{Timeout: knocking}
			conn, err := dialer.DialContext(ctx, "tcp", d.at)
			if err == nil {
				err = conn.Close()
			}
			outcomes[i] = outcomeOf(err)
			return nil
		})
	}
	_ = all.Wait() // none fails
	return outcomes
}

func outcomeOf(err error) outcome {
	switch {
	case err == nil:
		return open
	case errors.Is(err, unix.ECONNREFUSED):
		return refused
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded), errors.Is(err, unix.ETIMEDOUT):
		return silence
	}
	return unreachable + outcome(": "+err.Error())
}

// judgeDoors makes one finding of all nodes where a service is closed in the same way.
func judgeDoors(doors []door, outcomes []outcome) []problem.Problem {
	type fault struct {
		service string
		barred  bool
	}
	var order []fault
	names, shown, verdicts := map[fault][]string{}, map[fault][]string{}, map[fault]problem.Severity{}
	for i, d := range doors {
		f, verdict := fault{d.service, outcomes[i] != refused}, d.barred
		if outcomes[i] == refused {
			verdict = d.closed
		}
		if outcomes[i] == open || verdict == problem.None {
			continue
		}
		if names[f] == nil {
			order = append(order, f)
		}
		names[f], shown[f] = append(names[f], d.node), append(shown[f], d.at+" "+string(outcomes[i]))
		if verdicts[f] != problem.Error {
			verdicts[f] = verdict
		}
	}
	var found []problem.Problem
	for _, f := range order {
		text, cure := "nobody listens for "+f.service+" on "+named(names[f]), "look whether it runs there, and on which address it listens: ss -ltnp"
		if f.barred {
			text, cure = f.service+" can't be reached from here on "+named(names[f]), "let the port pass in firewalls and security groups between the nodes; if nothing of that node answers, see the check neighbors"
		}
		found = append(found, problem.Problem{Severity: verdicts[f], Message: text, Evidence: first(shown[f]), Remediation: cure})
	}
	return found
}

// nodePorts knocks at one of a Service on other nodes, where there is any: the range
// 30000 to 32767 is often forgotten in firewalls.
func nodePorts(ctx context.Context, p *Patient) []problem.Problem {
	if p.API == nil || p.Nodes == nil {
		return Skip("the Services are not known: "+errorText(p.NodesErr), "run it with a kubeconfig that may list Services: --kubeconfig FILE")
	}
	port, service, err := p.anyNodePort(ctx)
	if err != nil {
		return Skip(err.Error(), "the agent has no right to list Services; run it with a kubeconfig that has: --kubeconfig FILE")
	}
	if port == 0 {
		return nil
	}
	var doors []door
	for _, n := range p.others(sampled, ready) {
		doors = append(doors, door{n.Name, fmt.Sprintf("node port %d of Service %s", port, service), at(n, port), problem.None, problem.Warning})
	}
	return judgeDoors(doors, knock(ctx, doors))
}

// anyNodePort returns one that every node serves.
func (p *Patient) anyNodePort(ctx context.Context) (port int32, service string, err error) {
	client, err := kubernetes.NewForConfig(p.API)
	if err != nil {
		return 0, "", fmt.Errorf("making a client: %w", err)
	}
	list, err := client.CoreV1().Services("").List(ctx, metav1.ListOptions{ResourceVersion: "0"})
	if err != nil {
		return 0, "", fmt.Errorf("listing Services: %w", err)
	}
	for i := range list.Items {
		s := &list.Items[i]
		if s.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal {
			continue
		}
		for _, sp := range s.Spec.Ports {
			if sp.NodePort != 0 && sp.Protocol != corev1.ProtocolUDP && sp.Protocol != corev1.ProtocolSCTP {
				return sp.NodePort, s.Namespace + "/" + s.Name, nil
			}
		}
	}
	return 0, "", nil
}
