package inject

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/workqueue"
)

// FakeNode is a Node object without a machine, with whatever values the API server accepts.
type FakeNode struct {
	Name                string
	PodCIDRs, Addresses []string
}

// creators is how many Nodes are created or deleted at a time.
const creators = 16

func (f FakeNode) object() *corev1.Node {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: f.Name}}
	if len(f.PodCIDRs) > 0 {
		node.Spec.PodCIDR, node.Spec.PodCIDRs = f.PodCIDRs[0], f.PodCIDRs
	}
	for _, text := range f.Addresses {
		address := corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: text}
		node.Status.Addresses = append(node.Status.Addresses, address)
	}
	return node
}

// CreateNodes creates the Node objects, several at a time.
func CreateNodes(ctx context.Context, client kubernetes.Interface, fakes ...FakeNode) error {
	return each(ctx, fakes, func(fake FakeNode) error {
		if _, err := client.CoreV1().Nodes().Create(ctx, fake.object(), metav1.CreateOptions{}); err != nil {
			return fmt.Errorf("creating Node %s: %w", fake.Name, err)
		}
		return nil
	})
}

// DeleteNodes deletes the Node objects, several at a time.
func DeleteNodes(ctx context.Context, client kubernetes.Interface, fakes ...FakeNode) error {
	return each(ctx, fakes, func(fake FakeNode) error {
		if err := client.CoreV1().Nodes().Delete(ctx, fake.Name, metav1.DeleteOptions{}); err != nil {
			return fmt.Errorf("deleting Node %s: %w", fake.Name, err)
		}
		return nil
	})
}

// DeleteNodesIfPresent deletes those Node objects that exist.
func DeleteNodesIfPresent(ctx context.Context, client kubernetes.Interface, fakes ...FakeNode) error {
	return each(ctx, fakes, func(fake FakeNode) error {
		if err := DeleteNodes(ctx, client, fake); !apierrors.IsNotFound(err) {
			return err
		}
		return nil
	})
}

func each(ctx context.Context, fakes []FakeNode, do func(FakeNode) error) error {
	errs := make([]error, len(fakes))
	workqueue.ParallelizeUntil(ctx, creators, len(fakes), func(i int) { errs[i] = do(fakes[i]) })
	return errors.Join(errs...)
}
