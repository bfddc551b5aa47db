package e2e

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/plainroute/plainroute/test/testutil"
)

// upgrade changes the product and then restarts it, node by node, while packets flow between all pairs of nodes.
func (s *story) upgrade(ctx context.Context, t *testing.T) {
	flows := s.startFlows(ctx, t)
	s.rolls(ctx, t, "upgrade", s.product.upgrade)
	s.rolls(ctx, t, "rolling restart", s.cluster.restartAgents)
	flows.run(ctx, t)
	flows.stop(ctx, t)
}

// rolls waits until the rollout that change starts has replaced every agent.
func (s *story) rolls(ctx context.Context, t *testing.T, name string, change func(context.Context) error) {
	t.Helper()
	start := time.Now()
	old, err := s.cluster.agents(ctx)
	testutil.Must(t, err)
	testutil.Must(t, change(ctx))
	await(ctx, t, name, func(ctx context.Context) error {
		agents, err := s.cluster.agents(ctx)
		if err != nil {
			return err
		}
		for _, agent := range agents {
			if slices.ContainsFunc(old, func(one corev1.Pod) bool { return one.UID == agent.UID }) {
				return fmt.Errorf("the agent %s is still the old one", agent.Name)
			}
		}
		return s.cluster.rolledOut(ctx)
	})
	t.Logf("%s of %d agents: %.1f s", name, len(old), time.Since(start).Seconds())
}

// restartAgents does the same as `kubectl rollout restart`.
func (c *cluster) restartAgents(ctx context.Context) error {
	set, err := c.agentSet(ctx)
	if err != nil {
		return err
	}
	patch := fmt.Sprintf(`{"spec":{"template":{"metadata":{"annotations":{"kubectl.kubernetes.io/restartedAt":%q}}}}}`, time.Now().Format(time.RFC3339))
	_, err = c.api.AppsV1().DaemonSets(set.Namespace).Patch(ctx, set.Name, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{})
	return err
}

func (c *cluster) agentSet(ctx context.Context) (*appsv1.DaemonSet, error) {
	set, err := c.api.AppsV1().DaemonSets(productNamespace).Get(ctx, productName, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("getting the agents' DaemonSet: %w", err)
	}
	return set, nil
}

// agents are the agents' pods, those that are ending too.
func (c *cluster) agents(ctx context.Context) ([]corev1.Pod, error) {
	set, err := c.agentSet(ctx)
	if err != nil {
		return nil, err
	}
	list, err := c.api.CoreV1().Pods(productNamespace).List(ctx, metav1.ListOptions{LabelSelector: metav1.FormatLabelSelector(set.Spec.Selector)})
	if err != nil {
		return nil, fmt.Errorf("listing agents: %w", err)
	}
	return list.Items, nil
}

// rolledOut is nil once each node's agent is of the last generation, and ready.
func (c *cluster) rolledOut(ctx context.Context) error {
	set, err := c.agentSet(ctx)
	if err != nil {
		return err
	}
	status := set.Status
	if status.ObservedGeneration != set.Generation || status.DesiredNumberScheduled == 0 ||
		status.UpdatedNumberScheduled != status.DesiredNumberScheduled || status.NumberReady != status.DesiredNumberScheduled {
		return fmt.Errorf("of %d agents, %d are new and %d ready", status.DesiredNumberScheduled, status.UpdatedNumberScheduled, status.NumberReady)
	}
	return nil
}
