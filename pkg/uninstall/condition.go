package uninstall

import (
	"context"
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/retry"

	"github.com/plainroute/plainroute/pkg/fleet"
	"github.com/plainroute/plainroute/pkg/topology"
)

// deleteConditions deletes from all Nodes the condition that agents set with --node-condition. It
// would otherwise describe a network that is gone; set to True it would leave a NoSchedule taint
// that no other network removes.
func (u *Uninstall) deleteConditions(ctx context.Context) error {
	var errs []error
	count := 0
	err := fleet.Each(ctx, u.Client.Nodes().List, metav1.ListOptions{}, func(n *corev1.Node) {
		if !hasOurCondition(n) {
			return
		}
		count++
		if !u.DryRun {
			errs = append(errs, u.deleteCondition(ctx, n))
		}
	})
	if err != nil {
		errs = append(errs, fmt.Errorf("listing Nodes for their conditions: %w", err))
	}
	switch {
	case u.DryRun && count > 0:
		u.Notify("the condition %s would be deleted (Nodes: %d)", corev1.NodeNetworkUnavailable, count)
	case count > 0:
		u.Notify("deleting the condition %s (Nodes: %d)", corev1.NodeNetworkUnavailable, count)
	}
	return errors.Join(errs...)
}

// hasOurCondition reports whether a Node has the condition with an agent's reason.
func hasOurCondition(n *corev1.Node) bool {
	return slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeNetworkUnavailable && c.Reason == topology.ConditionReason
	})
}

// deleteCondition deletes a Node's condition by a patch that fails if the Node has changed; then it
// reads the Node again, by a list, which needs no further right.
func (u *Uninstall) deleteCondition(ctx context.Context, n *corev1.Node) error {
	nodes := u.Client.Nodes()
	err := retry.RetryOnConflict(retry.DefaultRetry, func() error {
		if !hasOurCondition(n) {
			return nil
		}
		patch := fmt.Sprintf(`{"metadata":{"resourceVersion":%q},"status":{"conditions":[{"type":%q,"$patch":"delete"}]}}`,
			n.ResourceVersion, corev1.NodeNetworkUnavailable)
		_, err := nodes.Patch(ctx, n.Name, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}, "status")
		switch {
		case apierrors.IsNotFound(err):
			return nil
		case !apierrors.IsConflict(err):
			return err
		}
		list, e := nodes.List(ctx, metav1.ListOptions{FieldSelector: metav1.ObjectNameField + "=" + n.Name})
		if e != nil || len(list.Items) == 0 {
			return e
		}
		n = &list.Items[0]
		return err
	})
	if err != nil {
		return fmt.Errorf("deleting the condition %s of Node %s: %w", corev1.NodeNetworkUnavailable, n.Name, err)
	}
	return nil
}
