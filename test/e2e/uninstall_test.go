package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/plainroute/plainroute/test/testutil"
)

// uninstall removes the pods, as docs/uninstall.md describes, and then the product. Nothing of it
// stays on any node and in the API, and everything else stays.
func (s *story) uninstall(ctx context.Context, t *testing.T) {
	s.plant(ctx, t) // reboots took it away
	s.leave(ctx, t)
	found, err := kubectl(ctx, "get", "--all-namespaces", "--selector=app.kubernetes.io/part-of="+productName, "--output=name", strings.Join([]string{
		"daemonsets", "pods", "jobs", "serviceaccounts", "configmaps", "secrets", "clusterroles", "clusterrolebindings", "roles", "rolebindings",
		"validatingadmissionpolicies", "validatingadmissionpolicybindings", "namespaces", "services",
	}, ","))
	testutil.Must(t, err)
	if found != "" {
		t.Errorf("still in the API:\n%s", found)
	}
	testutil.Must(t, s.cluster.conditions(ctx, false))
	s.leftNodes(ctx, t)
}

// leave takes everything out of the cluster.
func (s *story) leave(ctx context.Context, t *testing.T) {
	t.Helper()
	start := time.Now()
	testutil.Must(t, s.stopExtras(ctx))
	testutil.Must(t, s.cluster.removeNamespace(ctx, namespace))
	await(ctx, t, "the namespace to go", func(ctx context.Context) error { return s.cluster.namespaceGone(ctx, namespace) })
	await(ctx, t, "all pods to go", s.cluster.bare)
	t.Logf("pods gone after %.1f s", time.Since(start).Seconds())
	start = time.Now()
	testutil.Must(t, s.product.uninstall(ctx))
	await(ctx, t, "the product's namespace to go", func(ctx context.Context) error { return s.cluster.namespaceGone(ctx, productNamespace) })
	t.Logf("%s uninstall: %.1f s", *install, time.Since(start).Seconds())
}

func (s *story) leftNodes(ctx context.Context, t *testing.T) {
	needsNodes(t)
	nodes, err := s.cluster.nodes(ctx)
	testutil.Must(t, err)
	for _, one := range nodes {
		if err := clean(ctx, one.name); err != nil {
			t.Error(err)
		}
		if err := untouched(ctx, one.name); err != nil {
			t.Error(err)
		}
	}
	after, err := inventory(ctx, nodes[0].name)
	testutil.Must(t, err)
	if changed := differences(s.before, after); changed != "" {
		t.Errorf("node %s is not as it was before the install:\n%s", nodes[0].name, changed)
	}
	await(ctx, t, "the nodes to be without a network again", func(ctx context.Context) error {
		for _, one := range nodes {
			now, err := s.cluster.node(ctx, one.name)
			if err != nil {
				return err
			}
			if now.isReady() == nil {
				return fmt.Errorf("node %s is still Ready", now.name)
			}
		}
		return nil
	})
}
