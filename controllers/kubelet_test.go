package controllers

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"

	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/topology"
	"github.com/plainroute/plainroute/test/apiserver"
)

// A kubelet is a client with a node's own credentials, which the API server's Node
// authorizer and NodeRestriction hold in check.
type kubelet struct {
	typedcorev1.NodeInterface
	name string
}

func newKubelet(t *testing.T, name string) kubelet {
	t.Helper()
	config, err := apiserver.Start(t).User("system:node:"+name, "system:nodes")
	if err != nil {
		t.Fatal(err)
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return kubelet{client.CoreV1().Nodes(), name}
}

// register makes its Node, with pod subnets and InternalIPs in any order.
func (k kubelet) register(rest ...string) error {
	_, err := k.Create(context.Background(), newNode(k.name, rest...), metav1.CreateOptions{})
	return err
}

// patch changes a Node or, with "status", its status.
func (k kubelet) patch(name, patch string, subresources ...string) error {
	_, err := k.Patch(context.Background(), name, types.MergePatchType, []byte(patch), metav1.PatchOptions{}, subresources...)
	return err
}

// addresses writes InternalIPs into the status of a Node.
func (k kubelet) addresses(name string, addrs ...string) error {
	var all []string
	for _, a := range addrs {
		all = append(all, fmt.Sprintf(`{"type": "InternalIP", "address": %q}`, a))
	}
	return k.patch(name, fmt.Sprintf(`{"status": {"addresses": [%s]}}`, strings.Join(all, ", ")), "status")
}

// subnet gives a Node a pod subnet in place of those that it has.
func (k kubelet) subnet(name, subnet string) error {
	return k.patch(name, fmt.Sprintf(`{"spec": {"podCIDR": %[1]q, "podCIDRs": [%[1]q]}}`, subnet))
}

// An attack is what a compromised kubelet does with its credentials. Its Node is
// named evil, and for some attacks was there before all others, without a subnet.
type attack struct {
	name    string
	old     bool
	do      func(k kubelet) error
	refused string         // the API server's error; empty: it accepts the request
	route   string         // what comes of it for evil's own subnet
	problem problem.Reason // of the Node evil
}

const (
	forbidden  = "forbidden"
	evilSubnet = "10.244.66.0/24"
	evilRoute  = "10.244.66.0/24 via 192.168.1.66"
)

var attacks = []attack{
	{
		name: "gives itself addresses in others' subnets",
		old:  true,
		do:   func(k kubelet) error { return k.addresses(k.name, "10.244.2.5", "10.244.3.5") },
	}, {
		name: "takes another's subnet, being older and without one",
		old:  true,
		do: func(k kubelet) error {
			return k.subnet(k.name, "10.244.3.0/24")
		},
		problem: problem.PodCIDRDisputed,
	}, {
		name:  "registers honestly",
		do:    func(k kubelet) error { return k.register(evilSubnet, "192.168.1.66") },
		route: evilRoute,
	}, {
		name:    "registers with another Node's subnet",
		do:      func(k kubelet) error { return k.register("10.244.2.0/24", "192.168.1.66") },
		problem: problem.PodCIDRDisputed,
	}, {
		name: "registers with another Node's subnet and address",
		do:   func(k kubelet) error { return k.register("10.244.2.0/24", "192.168.1.12") },
		// Two equal Nodes differ by age and name only; the route is the same.
	}, {
		name:    "registers with our own subnet and address",
		do:      func(k kubelet) error { return k.register("10.244.1.0/24", "192.168.1.11") },
		problem: problem.PodCIDRDisputed,
	}, {
		name: "registers as if it had been there before everybody",
		do: func(k kubelet) error {
			node := newNode(k.name, "10.244.2.0/24", "192.168.1.66")
			node.CreationTimestamp = metav1.NewTime(time.Unix(1, 0))
			made, err := k.Create(context.Background(), node, metav1.CreateOptions{})
			if err == nil && time.Since(made.CreationTimestamp.Time) > time.Hour {
				return fmt.Errorf("the API server took the creation time %s", made.CreationTimestamp)
			}
			return err
		},
		problem: problem.PodCIDRDisputed,
	}, {
		name:    "registers with a wider subnet",
		do:      func(k kubelet) error { return k.register("10.244.2.0/23", "192.168.1.66") },
		problem: problem.PodCIDRRefused,
	}, {
		name:    "registers with a narrower subnet",
		do:      func(k kubelet) error { return k.register("10.244.2.128/25", "192.168.1.66") },
		problem: problem.PodCIDRRefused,
	}, {
		name:    "registers with all there is",
		do:      func(k kubelet) error { return k.register("0.0.0.0/0", "::/0", "192.168.1.66") },
		problem: problem.PodCIDRRefused,
	}, {
		name:    "registers with a nameserver's subnet",
		do:      func(k kubelet) error { return k.register("10.244.53.0/24", "192.168.1.66") },
		problem: problem.PodCIDRRefused,
	}, {
		name:  "registers with everybody's addresses",
		do:    func(k kubelet) error { return k.register(evilSubnet, "192.168.1.11", "192.168.1.12", "192.168.1.13") },
		route: "10.244.66.0/24 via 192.168.1.12", // it can misdirect its own subnet only
	}, {
		name: "claims everybody's addresses later",
		do: func(k kubelet) error {
			if err := k.register(evilSubnet, "192.168.1.66"); err != nil {
				return err
			}
			return k.addresses(k.name, "192.168.1.13", "192.168.1.12", "192.168.1.11")
		},
		route: "10.244.66.0/24 via 192.168.1.13",
	}, {
		name: "changes its subnet to another's",
		do: func(k kubelet) error {
			if err := k.register(evilSubnet, "192.168.1.66"); err != nil {
				return err
			}
			return k.subnet(k.name, "10.244.2.0/24")
		},
		refused: "may not change podCIDR except from \"\" to valid", route: evilRoute,
	}, {
		name:    "moves another Node",
		do:      func(k kubelet) error { return k.addresses("node2", "192.168.1.66") },
		refused: forbidden,
	}, {
		name:    "gives another Node a subnet",
		do:      func(k kubelet) error { return k.subnet("node2", "10.244.9.0/24") },
		refused: forbidden,
	}, {
		name: "deletes another Node",
		do: func(k kubelet) error {
			return k.Delete(context.Background(), "node2", metav1.DeleteOptions{})
		},
		refused: forbidden,
	}, {
		name: "makes a second Node",
		do: func(k kubelet) error {
			return kubelet{k.NodeInterface, "evil2"}.register("10.244.3.0/24", "192.168.1.66")
		},
		refused: forbidden,
	}, {
		name: "deletes its Node, to come back with another subnet",
		do: func(k kubelet) error {
			if err := k.register(evilSubnet, "192.168.1.66"); err != nil {
				return err
			}
			return k.Delete(context.Background(), k.name, metav1.DeleteOptions{})
		},
		refused: forbidden, route: evilRoute,
	}, {
		name: "has others ignored",
		do: func(k kubelet) error {
			return k.patch("node2", `{"metadata": {"labels": {"example.com/ignored": "yes"}}}`)
		},
		refused: forbidden,
	}, {
		name: "has itself ignored",
		do: func(k kubelet) error {
			if err := k.register(evilSubnet, "192.168.1.66"); err != nil {
				return err
			}
			return k.patch(k.name, `{"metadata": {"labels": {"example.com/ignored": "yes"}}}`)
		},
	}, {
		name: "has itself ignored by a label that only operators may give",
		do: func(k kubelet) error {
			if err := k.register(evilSubnet, "192.168.1.66"); err != nil {
				return err
			}
			return k.patch(k.name, `{"metadata": {"labels": {"node-restriction.kubernetes.io/ignored": "yes"}}}`)
		},
		refused: forbidden, route: evilRoute,
	},
}

// TestCompromisedKubelet tries what a kubelet's credentials allow on a real API
// server: no request changes the route to another Node, nor the end of a tunnel to it, nor from whom
// tunnels accept packets for it.
func TestCompromisedKubelet(t *testing.T) {
	for _, setting := range []topology.Encapsulation{topology.EncapsulateNever, topology.EncapsulateAlways} {
		t.Run(string(setting), func(t *testing.T) { attackAll(t, setting) })
	}
}

func attackAll(t *testing.T, setting topology.Encapsulation) {
	api := useNodes(t)
	api.Add(newNode("evil"))
	time.Sleep(1100 * time.Millisecond) // creation times have seconds
	api.Add(node1(), peer(2), peer(3))
	time.Sleep(1100 * time.Millisecond) // or who comes next would count as old as these
	a := startAgent(t, agentOptions{ignore: "example.com/ignored", edit: func(o *topology.Options) {
		o.Encapsulation, o.VNI, o.VXLANPort = setting, 112, 4789
	}})
	a.eventually(a.hasRoutes(peerRoute(2), peerRoute(3)))
	a.eventually(a.ready)
	evil := newKubelet(t, "evil")
	good, mark := a.host.routes(), len(a.host.since(0))
	for _, entry := range a.host.fdb() {
		good = append(good, entry.MAC.String())
	}
	for _, c := range attacks {
		t.Run(c.name, func(t *testing.T) {
			a.t, api.t = t, t
			if !c.old {
				api.forget("evil")
				a.eventually(a.hasRoutes(peerRoute(2), peerRoute(3)))
			}
			c.try(a, evil)
			c.harmless(a, good, mark)
		})
	}
	a.t = t
}

// forget deletes a Node if it is there.
func (n clusterNodes) forget(name string) {
	n.t.Helper()
	if err := n.Delete(context.Background(), name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
		n.t.Fatal(err)
	}
}

func (c attack) try(a *agent, k kubelet) {
	a.t.Helper()
	err := c.do(k)
	switch {
	case c.refused == "" && err != nil:
		a.t.Fatal("the API server refuses it:", err)
	case c.refused != "" && (err == nil || !strings.Contains(err.Error(), c.refused)):
		a.t.Fatalf("the API server says %v, want that it is %s", err, c.refused)
	}
	routes := []string{peerRoute(2), peerRoute(3)}
	if c.route != "" {
		routes = append(routes, c.route)
	}
	a.eventually(a.hasRoutes(routes...))
	if c.problem != "" {
		a.eventually(func() error { return a.hasProblem("evil", c.problem) })
	}
	a.onePassMore()
	a.eventually(a.hasRoutes(routes...))
}

// harmless checks that no route of others was touched since the mark, not for a
// moment either, and that this node is ready.
func (c attack) harmless(a *agent, good []string, mark int) {
	a.t.Helper()
	for _, done := range a.host.since(mark) {
		if slices.ContainsFunc(good, func(r string) bool { return strings.Contains(done, strings.Fields(r)[0]) }) {
			a.t.Errorf("another Node's route was touched: %s", done)
		}
	}
	a.acceptsFrom(a.latest.Last().Nodes)
	if err := a.ready(); err != nil {
		a.t.Error(err)
	}
	for _, p := range a.latest.Last().Problems {
		if p.BlocksReady {
			a.t.Errorf("it keeps us from being ready: %s", p)
		}
	}
}

// acceptsFrom checks that tunnels accept packets of node2 and node3, and else of those Nodes alone that
// have an end of a tunnel.
func (a *agent) acceptsFrom(nodes []*topology.Node) {
	a.t.Helper()
	accepted := map[netip.Addr]bool{}
	for _, e := range a.host.fdb() {
		for _, n := range nodes {
			if slices.Contains(n.Addrs, e.Dst) {
				for _, addr := range n.Addrs {
					accepted[addr] = true
				}
			}
		}
	}
	for _, addr := range a.host.endpoints() {
		if !accepted[addr] {
			a.t.Errorf("tunnels accept packets of %s", addr)
		}
		delete(accepted, addr)
	}
	for _, addr := range []string{"192.168.1.12", "192.168.1.13"} {
		if accepted[netip.MustParseAddr(addr)] {
			a.t.Errorf("tunnels accept no packets of %s", addr)
		}
	}
}

// Our own node's kubelet may cut off its own pods, and nothing else.
func TestCompromisedKubeletOfOurs(t *testing.T) {
	api := useNodes(t)
	api.Add(node1(), peer(2), peer(3))
	a := startAgent(t, agentOptions{})
	a.eventually(a.hasRoutes(peerRoute(2), peerRoute(3)))
	a.eventually(a.ready)
	mark := len(a.host.since(0))
	ours := newKubelet(t, "node1")
	if err := ours.addresses("node1", "192.168.1.12", "10.244.3.1"); err != nil {
		t.Fatal(err)
	}
	a.eventually(a.notReady(string(problem.AddressMissing)))
	if err := ours.subnet("node1", "10.244.2.0/24"); !apierrors.IsInvalid(err) {
		t.Errorf("changing our own subnet: %v", err)
	}
	a.onePassMore()
	a.eventually(a.hasRoutes(peerRoute(2), peerRoute(3)))
	for _, done := range a.host.since(mark) {
		if strings.Contains(done, "route") || strings.Contains(done, " via ") {
			t.Errorf("a route was touched: %s", done)
		}
	}
	if err := ours.addresses("node1", "192.168.1.11", "fd00:192:168:1::11"); err != nil {
		t.Fatal(err)
	}
	a.eventually(a.ready)
}
