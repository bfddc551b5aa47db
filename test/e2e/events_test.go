package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"

	"github.com/plainroute/plainroute/test/testutil"
)

// events gives a node another network's CNI config, which the agent reports where its user looks
// first: in the Events of the Node. It creates them as the service account that the installation
// made, with no more rights than that.
func (s *story) events(ctx context.Context, t *testing.T) {
	needsNodes(t)
	nodes, err := s.cluster.nodes(ctx)
	testutil.Must(t, err)
	const config = "/etc/cni/net.d/05-other.conflist"
	node := nodes[0].name
	t.Cleanup(func() { _, _ = onNode(context.Background(), node, "rm -f "+config) })
	_, err = onNode(ctx, node, `echo '{"cniVersion":"1.0.0","name":"other","plugins":[{"type":"ptp"}]}' > `+config)
	testutil.Must(t, err)
	await(ctx, t, "an Event of node "+node, func(ctx context.Context) error { return s.cluster.reported(ctx, node, "CNIConflict") })
	_, err = onNode(ctx, node, "rm "+config)
	testutil.Must(t, err)
	await(ctx, t, "the agents", s.cluster.rolledOut)
}

// reported returns nil if `kubectl describe node` shows an Event of plainroute's with this reason
// and a remediation.
func (c *cluster) reported(ctx context.Context, node, reason string) error {
	list, err := c.api.CoreV1().Events("default").List(ctx, metav1.ListOptions{FieldSelector: fields.Set{
		"involvedObject.kind": "Node", "involvedObject.name": node, "involvedObject.uid": node,
		"reportingComponent": productName, "reason": reason,
	}.String()})
	if err != nil {
		return fmt.Errorf("listing events: %w", err)
	}
	if len(list.Items) != 1 || !strings.Contains(list.Items[0].Message, "Remediation: ") {
		return fmt.Errorf("there are %d Events of reason %s: %v", len(list.Items), reason, list.Items)
	}
	return nil
}
