package e2e

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/plainroute/plainroute/test/testutil"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// The DaemonSet leaves nodes with this label alone. It is how an agent is held back.
const (
	virtualKey   = "type"
	virtualValue = "virtual-kubelet"
)

// reboot restarts a node whose agent is held back: the CNI config from before the reboot must not
// make it Ready, because it has no routes. With the agent come the routes, then Ready, then the
// pods.
func (s *story) reboot(ctx context.Context, t *testing.T) {
	needsNodes(t)
	now := s.scene(ctx, t)
	name := now.nodes[1].name
	old := on(now.pods, name)
	testutil.Must(t, s.cluster.label(ctx, name, virtualValue))
	t.Cleanup(func() { _ = s.cluster.label(context.Background(), name, "") })
	await(ctx, t, "the agent of node "+name+" to end", func(ctx context.Context) error { return s.cluster.hasNoAgent(ctx, name) })
	testutil.Must(t, s.hasRoutes(ctx, name)) // an agent that ends leaves them
	listing, err := onNode(ctx, name, "ls -l "+confFolder)
	testutil.Must(t, err)
	if !strings.Contains(listing, "10-plainroute.conflist") {
		t.Fatalf("node %s has no CNI config before the reboot, so this shows nothing:\n%s", name, listing)
	}
	before, err := s.cluster.node(ctx, name)
	testutil.Must(t, err)
	testutil.Must(t, before.isReady()) // so that a later status is from after the reboot
	start := time.Now()
	testutil.Must(t, rebootNode(ctx, name))
	s.staysUnready(ctx, t, name, start, in(old, groupHost)[0])
	testutil.Must(t, s.cluster.label(ctx, name, ""))
	freed := time.Now()
	s.awaitNode(ctx, t, name)
	t.Logf("Ready %.1f s after its agent was let start", time.Since(freed).Seconds())
	s.awaitPodsOn(ctx, t, name, old)
	t.Logf("its pods are back %.1f s after the reboot began", time.Since(start).Seconds())
}

// staysUnready waits for two things after the reboot: the kubelet reports that there is no network,
// and a pod on the host's network, which needs none, runs again. Until then the node must not have
// been Ready.
func (s *story) staysUnready(ctx context.Context, t *testing.T, name string, since time.Time, host pod) {
	t.Helper()
	look := func(ctx context.Context) (node, error) {
		one, err := s.cluster.node(ctx, name)
		if err == nil && reportedAfter(one, since) && one.isReady() == nil {
			t.Fatalf("node %s is Ready without an agent", name)
		}
		return one, err
	}
	await(ctx, t, "the kubelet to report that there is no network", func(ctx context.Context) error {
		one, err := look(ctx)
		if err == nil && !strings.Contains(one.ready.Message, "cni plugin not initialized") {
			err = fmt.Errorf("node %s reported %q at %s", name, one.ready.Message, one.ready.LastHeartbeatTime)
		}
		return err
	})
	await(ctx, t, "the pod on the host's network", func(ctx context.Context) error {
		if _, err := look(ctx); err != nil {
			return err
		}
		pods, err := s.cluster.pods(ctx)
		if err != nil {
			return err
		}
		return areNew(in(on(pods, name), groupHost), []pod{host})
	})
	routes, err := ourRoutes(ctx, name)
	testutil.Must(t, err)
	if routes != "" {
		t.Errorf("these routes outlived a reboot, so this shows nothing:\n%s", routes)
	}
	t.Logf("%.1f s after the reboot began a pod on the host's network runs, and the node is not Ready", time.Since(since).Seconds())
}

// reportedAfter reports whether the kubelet has surely reported since. Its times are in whole
// seconds, so the first second is ambiguous.
func reportedAfter(one node, since time.Time) bool {
	return one.ready.LastHeartbeatTime.After(since)
}

func (c *cluster) hasNoAgent(ctx context.Context, name string) error {
	agents, err := c.agents(ctx)
	for _, agent := range agents {
		if agent.Spec.NodeName == name {
			err = errors.Join(err, fmt.Errorf("the agent %s is still there", agent.Name))
		}
	}
	return err
}

// label makes a node one that the agents' DaemonSet leaves alone; an empty value ends that.
func (c *cluster) label(ctx context.Context, name, value string) error {
	text := fmt.Sprintf("%q", value)
	if value == "" {
		text = "null"
	}
	patch := fmt.Sprintf(`{"metadata":{"labels":{%q:%s}}}`, virtualKey, text)
	_, err := c.api.CoreV1().Nodes().Patch(ctx, name, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{})
	return err
}
