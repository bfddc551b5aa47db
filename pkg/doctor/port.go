package doctor

import (
	"cmp"
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
	"k8s.io/client-go/rest"

	"github.com/plainroute/plainroute/pkg/kube"
	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/topology"
)

// An endpoint is a TCP port that a cluster needs open from here.
type endpoint struct {
	node, service, addr string
	closed, blocked     problem.Severity // if the connection is refused, and if nothing answers
}

// A dialResult is the outcome of a connection attempt.
type dialResult string

const (
	open        dialResult = "open"
	refused     dialResult = "refused: the machine answers, and no process listens there"
	timedOut    dialResult = "no answer: a firewall drops it, or the machine is down"
	unreachable dialResult = "unreachable"
)

const (
	// dialTimeout bounds one connection attempt; maxParallelDials is how many run at once.
	dialTimeout      = 2 * time.Second
	maxParallelDials = 64
)

// ports connects to the ports of the control plane and of kubelets.
func ports(ctx context.Context, t *Target) []problem.Problem {
	endpoints := slices.Concat(t.apiServerEndpoint(), t.kubeletEndpoints(), t.controlPlaneEndpoints())
	if len(endpoints) == 0 {
		return Skip("neither the API server nor the other Nodes are known: "+errorText(t.NodesErr), giveKubeconfig)
	}
	return dialAll(ctx, endpoints)
}

// apiServerEndpoint returns the address of the client configuration, in a pod that of the Service.
func (t *Target) apiServerEndpoint() []endpoint {
	if t.API == nil {
		return nil
	}
	url, _, err := rest.DefaultServerUrlFor(t.API)
	if err != nil {
		return nil
	}
	port := cmp.Or(url.Port(), map[string]string{"https": "443", "http": "80"}[url.Scheme])
	return []endpoint{{"the API server", "API server", net.JoinHostPort(url.Hostname(), port), problem.Error, problem.Error}}
}

// kubeletEndpoints returns those of a sample. The API server needs them for logs and exec.
func (t *Target) kubeletEndpoints() []endpoint {
	severity := problem.Warning
	if own := t.OwnNode(); own != nil && controlPlane(own) {
		severity = problem.Error
	}
	var endpoints []endpoint
	for _, n := range t.others(ready) {
		port := cmp.Or(n.Status.DaemonEndpoints.KubeletEndpoint.Port, 10250) // KubeletPort of k8s.io/kubernetes/pkg/cluster/ports
		endpoints = append(endpoints, endpoint{n.Name, "kubelet", addrOf(n, port), severity, severity})
	}
	return endpoints
}

// controlPlaneEndpoints returns the API servers behind the Service, and, for a node of the control
// plane, etcd, controller manager and scheduler of the others. Those may listen on the loopback
// only, so a refused connection is not a problem.
func (t *Target) controlPlaneEndpoints() []endpoint {
	own := t.OwnNode()
	var endpoints []endpoint
	for _, n := range t.others(func(n *corev1.Node) bool { return controlPlane(n) && ready(n) }) {
		endpoints = append(endpoints, endpoint{n.Name, "API server", addrOf(n, t.serverPort(n)), problem.Warning, problem.Warning})
		if own == nil || !controlPlane(own) {
			continue
		}
		for _, inner := range []struct {
			service string
			port    int32
		}{{"etcd's clients", 2379}, {"etcd's peers", 2380}, {"controller manager", 10257}, {"scheduler", 10259}} {
			endpoints = append(endpoints, endpoint{n.Name, inner.service, addrOf(n, inner.port), problem.None, problem.Warning})
		}
	}
	return endpoints
}

// serverPort returns the port of the client configuration if it names this Node, else the usual.
func (t *Target) serverPort(n *corev1.Node) int32 {
	for _, e := range t.apiServerEndpoint() {
		host, port, err := net.SplitHostPort(e.addr)
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

// others returns a sample of the selected machines with an InternalIP.
func (t *Target) others(which func(*corev1.Node) bool) []*corev1.Node {
	all := slices.DeleteFunc(t.otherMachines(), func(n *corev1.Node) bool { return !which(n) || len(topology.NodeFrom(n).Addrs) == 0 })
	return spread(all, maxPeers, func(*corev1.Node) bool { return false })
}

func addrOf(n *corev1.Node, port int32) string {
	return net.JoinHostPort(topology.NodeFrom(n).Addrs[0].String(), strconv.Itoa(int(port)))
}

// dialAll connects to all endpoints. Nodes on which a service fails in the same way share a Problem.
func dialAll(ctx context.Context, endpoints []endpoint) []problem.Problem {
	results := make([]dialResult, len(endpoints))
	dialer := net.Dialer{Timeout: dialTimeout}
	var all errgroup.Group
	all.SetLimit(maxParallelDials)
	for i, e := range endpoints {
		all.Go(func() error {
			conn, err := dialer.DialContext(ctx, "tcp", e.addr)
			if err == nil {
				err = conn.Close()
			}
			results[i] = dialResultOf(err)
			return nil
		})
	}
	_ = all.Wait() // none fails
	return endpointProblems(endpoints, results)
}

func dialResultOf(err error) dialResult {
	switch {
	case err == nil:
		return open
	case errors.Is(err, unix.ECONNREFUSED):
		return refused
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded), errors.Is(err, unix.ETIMEDOUT):
		return timedOut
	}
	return unreachable + dialResult(": "+err.Error())
}

func endpointProblems(endpoints []endpoint, results []dialResult) []problem.Problem {
	type failure struct {
		service string
		refused bool
	}
	var order []failure
	nodes, severities := map[failure]*group{}, map[failure]problem.Severity{}
	for i, e := range endpoints {
		f, severity := failure{e.service, results[i] == refused}, e.blocked
		if f.refused {
			severity = e.closed
		}
		if results[i] == open || severity == problem.None {
			continue
		}
		if nodes[f] == nil {
			order, nodes[f] = append(order, f), &group{}
		}
		nodes[f].add(e.node, "%s %s", e.addr, results[i])
		if severities[f] != problem.Error {
			severities[f] = severity
		}
	}
	var found []problem.Problem
	for _, f := range order {
		message, remedy := f.service+" can't be reached from here on ", "let the port pass in firewalls and security groups between the nodes; if that node does not answer at all, see the check neighbors"
		if f.refused {
			message, remedy = "no process listens for "+f.service+" on ", "check there whether it runs and on which address it listens: ss -ltnp"
		}
		found = append(found, nodes[f].problems(severities[f], message, remedy)...)
	}
	return found
}

// nodePorts connects to a Service's node port: firewalls often omit the range 30000 to 32767.
func nodePorts(ctx context.Context, t *Target) []problem.Problem {
	if t.API == nil || t.Nodes == nil {
		return Skip("the Services are not known: "+errorText(t.NodesErr), "run it with a kubeconfig that may list Services: --kubeconfig FILE")
	}
	port, service, err := t.anyNodePort(ctx)
	if err != nil {
		return Skip(err.Error(), "the agent has no right to list Services; give a kubeconfig that has: --kubeconfig FILE")
	}
	if port == 0 {
		return nil
	}
	var endpoints []endpoint
	for _, n := range t.others(ready) {
		endpoints = append(endpoints, endpoint{n.Name, fmt.Sprintf("node port %d of Service %s", port, service), addrOf(n, port), problem.None, problem.Warning})
	}
	return dialAll(ctx, endpoints)
}

// anyNodePort returns a node port that every node serves, 0 if there is none.
func (t *Target) anyNodePort(ctx context.Context) (port int32, service string, err error) {
	client, err := kube.New(t.API)
	if err != nil {
		return 0, "", err
	}
	list, err := client.Services("").List(ctx, metav1.ListOptions{ResourceVersion: "0"})
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
