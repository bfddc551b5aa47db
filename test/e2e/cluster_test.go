package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/plainroute/plainroute/pkg/kube"
	"github.com/plainroute/plainroute/test/testutil"
)

// cluster is the one of KUBECONFIG.
type cluster struct {
	config *rest.Config
	api    *kubernetes.Clientset
	tested *kube.Client // the product's
	lines  lines
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG"))
	testutil.Must(t, err)
	config.QPS = -1 // a test that polls is bounded by its polls
	api, err := kubernetes.NewForConfig(config)
	testutil.Must(t, err)
	tested, err := kube.New(config)
	testutil.Must(t, err)
	c := &cluster{config: config, api: api, tested: tested}
	t.Cleanup(c.lines.close)
	return c
}

// node is a Node as the tests see it.
type node struct {
	name      string
	addresses []netip.Addr // InternalIPs
	subnets   []netip.Prefix
	ready     corev1.NodeCondition
}

func (c *cluster) nodes(ctx context.Context) ([]node, error) {
	list, err := c.api.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("listing nodes: %w", err)
	}
	nodes := make([]node, len(list.Items))
	for i := range list.Items {
		if nodes[i], err = nodeFrom(&list.Items[i]); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(nodes, func(a, b node) int { return strings.Compare(a.name, b.name) })
	return nodes, nil
}

func (c *cluster) node(ctx context.Context, name string) (node, error) {
	one, err := c.api.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return node{}, fmt.Errorf("getting node %s: %w", name, err)
	}
	return nodeFrom(one)
}

func nodeFrom(object *corev1.Node) (node, error) {
	one := node{name: object.Name}
	for _, address := range object.Status.Addresses {
		if address.Type != corev1.NodeInternalIP {
			continue
		}
		parsed, err := netip.ParseAddr(address.Address)
		if err != nil {
			return node{}, fmt.Errorf("reading node %s: %w", object.Name, err)
		}
		one.addresses = append(one.addresses, parsed)
	}
	for _, subnet := range object.Spec.PodCIDRs {
		parsed, err := netip.ParsePrefix(subnet)
		if err != nil {
			return node{}, fmt.Errorf("reading node %s: %w", object.Name, err)
		}
		one.subnets = append(one.subnets, parsed)
	}
	for _, condition := range object.Status.Conditions {
		if condition.Type == corev1.NodeReady {
			one.ready = condition
		}
	}
	return one, nil
}

// isReady returns what is missing as an error, for await.
func (n node) isReady() error {
	if n.ready.Status != corev1.ConditionTrue {
		return fmt.Errorf("node %s is not ready: %s", n.name, n.ready.Message)
	}
	return nil
}

// allReady is nil once all nodes are, at least so many.
func (c *cluster) allReady(ctx context.Context, count int) error {
	nodes, err := c.nodes(ctx)
	if err != nil {
		return err
	}
	if len(nodes) < count {
		return fmt.Errorf("there are %d nodes: want %d", len(nodes), count)
	}
	for _, one := range nodes {
		if err := one.isReady(); err != nil {
			return err
		}
	}
	return nil
}

// families are those that the cluster's pods have: one subnet of each.
func families(nodes []node) []string {
	var families []string
	for _, subnet := range nodes[0].subnets {
		families = append(families, family(subnet.Addr()))
	}
	return families
}

func family(address netip.Addr) string {
	if address.Is4() {
		return "IPv4"
	}
	return "IPv6"
}

// ofFamily picks the address of the family, or none.
func ofFamily(addresses []netip.Addr, wanted string) netip.Addr {
	for _, address := range addresses {
		if family(address) == wanted {
			return address
		}
	}
	return netip.Addr{}
}
