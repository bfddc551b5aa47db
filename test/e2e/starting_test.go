package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/retry"

	"github.com/plainroute/plainroute/test/testutil"
)

// startupTaint is the taint of nodes until their agent is ready, as a cloud or a cluster's installer would put it there.
const startupTaint = "plainroute/starting"

// taint puts the start-up taint on all nodes.
func (c *cluster) taint(ctx context.Context) error {
	list, err := c.api.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("listing nodes: %w", err)
	}
	for _, one := range list.Items {
		err := retry.RetryOnConflict(retry.DefaultBackoff, func() error {
			node, err := c.api.CoreV1().Nodes().Get(ctx, one.Name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			node.Spec.Taints = append(node.Spec.Taints, corev1.Taint{Key: startupTaint, Effect: corev1.TaintEffectNoSchedule})
			_, err = c.api.CoreV1().Nodes().Update(ctx, node, metav1.UpdateOptions{})
			return err
		})
		if err != nil {
			return fmt.Errorf("tainting node %s: %w", one.Name, err)
		}
	}
	return nil
}

// untainted is nil once the agents have taken the start-up taint off all nodes.
func (c *cluster) untainted(ctx context.Context) error {
	list, err := c.api.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("listing nodes: %w", err)
	}
	for _, one := range list.Items {
		if slices.ContainsFunc(one.Spec.Taints, func(taint corev1.Taint) bool { return taint.Key == startupTaint }) {
			return fmt.Errorf("node %s has the taint %s still", one.Name, startupTaint)
		}
	}
	return nil
}

// apiServer is where nodes reach the API server without kube-proxy.
func (c *cluster) apiServer(ctx context.Context) (host string, port int, err error) {
	found, err := c.api.DiscoveryV1().EndpointSlices(metav1.NamespaceDefault).List(ctx, metav1.ListOptions{
		LabelSelector: discoveryv1.LabelServiceName + "=kubernetes",
	})
	if err != nil {
		return "", 0, fmt.Errorf("looking for the API server's address: %w", err)
	}
	for _, slice := range found.Items {
		if len(slice.Endpoints) > 0 && len(slice.Ports) > 0 {
			return slice.Endpoints[0].Addresses[0], int(*slice.Ports[0].Port), nil
		}
	}
	return "", 0, errors.New("looking for the API server's address: the Service kubernetes has no endpoints")
}

// direct checks that all agents use the API server's own address, and none its Service, which needs
// kube-proxy.
func (s *story) direct(ctx context.Context, t *testing.T) {
	t.Helper()
	host, port, err := s.cluster.apiServer(ctx)
	testutil.Must(t, err)
	nodes, err := s.cluster.nodes(ctx)
	testutil.Must(t, err)
	want := net.JoinHostPort(host, strconv.Itoa(port))
	for _, one := range nodes {
		peers, err := onNode(ctx, one.name, `ss --no-header --tcp --numeric --processes state established | awk '/"plainroute"/ {print $4}'`)
		testutil.Must(t, err)
		if all := strings.Fields(peers); !slices.Contains(all, want) || slices.ContainsFunc(all, func(peer string) bool { return strings.HasSuffix(peer, ":443") }) {
			t.Errorf("the agent of node %s uses %q, want %s", one.name, all, want)
		}
	}
}
