package doctor

import (
	"net"
	"strings"
	"testing"

	rtnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/plainroute/plainroute/pkg/problem"
)

// listen opens ports of a peer.
func (m *machine) listen(ports ...string) {
	m.t.Helper()
	for _, port := range ports {
		m.do(func() error {
			l, err := net.Listen("tcp", ":"+port)
			if err == nil {
				m.t.Cleanup(func() { l.Close() })
			}
			return err
		})
	}
}

// noAnswers makes a peer drop all of its answers to us, as a firewall does.
func (m *machine) noAnswers() {
	m.t.Helper()
	us, err := rtnl.ParseIPNet("192.168.1.11/32")
	m.must(err)
	m.must(m.nl.RouteAdd(&rtnl.Route{Dst: us, Type: unix.RTN_BLACKHOLE}))
}

// ruled makes a Node part of the control plane.
func (l *lan) ruled(numbers ...int) {
	for _, n := range numbers {
		l.nodes[n-1].Labels = map[string]string{"node-role.kubernetes.io/control-plane": ""}
	}
}

func TestPortsAreOpen(t *testing.T) {
	l := newLAN(t)
	l.peer(2).listen("6443", "10250", "2379", "2380") // the others listen on the loopback, by design
	l.ruled(1, 2)
	p := l.target()
	p.API = &rest.Config{Host: "https://192.168.1.12:6443"}
	well(t, ports(t.Context(), p))
}

// A refused connection, a timeout and an unreachable host have different messages.
func TestPortsAreClosed(t *testing.T) {
	l := newLAN(t)
	l.peer(2) // listens nowhere
	m := l.peer(3)
	m.listen("10250", "2379")
	m.noAnswers()
	l.ruled(3)
	found := ports(t.Context(), l.target())
	if len(found) != 3 {
		t.Fatalf("found %+v", found)
	}
	finds(t, found[:1], problem.Warning, "no process listens for kubelet on node2", "192.168.1.12:10250 refused", "ss -ltnp")
	finds(t, found[1:2], problem.Warning, "kubelet can't be reached from here on node3", "192.168.1.13:10250 no answer", "firewall")
	finds(t, found[2:], problem.Warning, "API server can't be reached from here on node3", "192.168.1.13:6443")

	l.ruled(1)
	found = ports(t.Context(), l.target())
	var text []string
	for _, f := range found {
		text = append(text, string(f.Severity)+" "+f.Message)
	}
	all := strings.Join(text, "\n")
	for _, want := range []string{"Error kubelet", "Error no process listens for kubelet", "Warning etcd's clients", "Warning etcd's peers", "Warning scheduler", "Warning controller manager"} {
		if !strings.Contains(all, want) {
			t.Errorf("no %q in\n%s", want, all)
		}
	}
}

func TestServerIsAway(t *testing.T) {
	l := newLAN(t)
	l.peer(2).listen("10250")
	p := l.target()
	p.API = &rest.Config{Host: "https://192.168.1.12:6443"}
	finds(t, ports(t.Context(), p), problem.Error, "no process listens for API server", "192.168.1.12:6443 refused")
	finds(t, ports(t.Context(), &Target{}), problem.Unknown, "--kubeconfig")
}

// On a real API server: a node port that a firewall blocks, and the agent's rights, which do not
// suffice.
func TestNodePorts(t *testing.T) {
	l := newLAN(t)
	s := newAPIServer(t)
	l.peer(2).listen("30080")
	m := l.peer(3)
	m.listen("30080")
	p := l.target()
	p.API = s.config
	well(t, nodePorts(t.Context(), p)) // no Service has one
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: corev1.ServiceSpec{
		Type: corev1.ServiceTypeNodePort, Selector: map[string]string{"app": "web"}, Ports: []corev1.ServicePort{{Port: 80, NodePort: 30080}},
	}}
	if _, err := s.admin.CoreV1().Services("default").Create(t.Context(), service, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	well(t, nodePorts(t.Context(), p))
	m.noAnswers()
	finds(t, nodePorts(t.Context(), p), problem.Warning, "node port 30080 of Service default/web", "node3")
	p.API = s.agent()
	finds(t, nodePorts(t.Context(), p), problem.Unknown, "forbidden", "--kubeconfig")
}
