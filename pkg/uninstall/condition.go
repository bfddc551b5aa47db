package uninstall

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/plainroute/plainroute/pkg/fleet"
	"github.com/plainroute/plainroute/pkg/topology"
)

// deleteConditions deletes from all Nodes the condition that agents set with --node-condition. It
// would otherwise describe a network that is gone; set to True it would leave a NoSchedule taint
// that no other network removes.
func (u *Uninstall) deleteConditions(ctx context.Context) error {
	var errs []error
	count := 0
	err := fleet.Each(ctx, u.Client.CoreV1().Nodes().List, metav1.ListOptions{}, func(n *corev1.Node) {
		if conditionOfOurs(n) < 0 {
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

// conditionOfOurs returns the condition's index, or -1 if it is missing or has the reason of
// another program.
func conditionOfOurs(n *corev1.Node) int {
	return slices.IndexFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeNetworkUnavailable && c.Reason == topology.ConditionReason
	})
}

// deleteCondition deletes a Node's condition by a patch that fails if the Node has changed; then it
// reads the Node again.
func (u *Uninstall) deleteCondition(ctx context.Context, n *corev1.Node) error {
	const tries = 5
	nodes := u.Client.CoreV1().Nodes()
	var err error
	for range tries {
		i := conditionOfOurs(n)
		if i < 0 {
			return nil
		}
		at := fmt.Sprintf("/status/conditions/%d", i)
		patch, e := json.Marshal([]map[string]string{
			{"op": "test", "path": at + "/type", "value": string(corev1.NodeNetworkUnavailable)},
			{"op": "test", "path": at + "/reason", "value": topology.ConditionReason},
			{"op": "remove", "path": at},
		})
		if e != nil {
			return e
		}
		if _, err = nodes.Patch(ctx, n.Name, types.JSONPatchType, patch, metav1.PatchOptions{}, "status"); err == nil || apierrors.IsNotFound(err) {
			return nil
		}
		if !apierrors.IsInvalid(err) && !apierrors.IsConflict(err) {
			break
		}
		list, e := nodes.List(ctx, metav1.ListOptions{FieldSelector: metav1.ObjectNameField + "=" + n.Name})
		if e != nil || len(list.Items) == 0 {
			return e
		}
		n = &list.Items[0]
	}
	return fmt.Errorf("deleting the condition %s of Node %s: %w", corev1.NodeNetworkUnavailable, n.Name, err)
}
