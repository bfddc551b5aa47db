package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/plainroute/plainroute/test/testutil"
)

// pod is a running workload.
type pod struct {
	namespace, name, group, node string
	addresses                    []netip.Addr
	container                    string // the running container's id
	port                         uint16
	ready                        bool
}

func (p pod) onHost() bool { return p.group == groupHost }

// pods are all those of the workload, also those that don't run yet.
func (c *cluster) pods(ctx context.Context) ([]pod, error) {
	list, err := c.api.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: "app"})
	if err != nil {
		return nil, fmt.Errorf("listing pods: %w", err)
	}
	pods := make([]pod, len(list.Items))
	for i := range list.Items {
		if pods[i], err = podFrom(&list.Items[i]); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(pods, func(a, b pod) int { return strings.Compare(a.node+a.group, b.node+b.group) })
	return pods, nil
}

func podFrom(object *corev1.Pod) (pod, error) {
	one := pod{namespace: object.Namespace, name: object.Name, group: object.Labels["app"], node: object.Spec.NodeName, port: podPort}
	if one.onHost() {
		one.port = nodePort
	}
	for _, address := range object.Status.PodIPs {
		parsed, err := netip.ParseAddr(address.IP)
		if err != nil {
			return pod{}, fmt.Errorf("reading pod %s: %w", object.Name, err)
		}
		one.addresses = append(one.addresses, parsed)
	}
	for _, container := range object.Status.ContainerStatuses {
		if container.State.Running != nil {
			one.container = container.ContainerID
		}
	}
	for _, condition := range object.Status.Conditions {
		if condition.Type == corev1.PodReady && object.DeletionTimestamp == nil {
			one.ready = condition.Status == corev1.ConditionTrue
		}
	}
	return one, nil
}

// readyPods are all pods once each node has one of each group, ready and in none of the containers that old names.
func (c *cluster) readyPods(ctx context.Context, old []pod) ([]pod, error) {
	nodes, err := c.nodes(ctx)
	if err != nil {
		return nil, err
	}
	pods, err := c.pods(ctx)
	if err != nil {
		return nil, err
	}
	if want := 3 * len(nodes); len(pods) != want {
		return nil, fmt.Errorf("there are %d pods: want %d", len(pods), want)
	}
	return pods, areNew(pods, old)
}

func (s *story) startPods(ctx context.Context, t *testing.T) {
	testutil.Must(t, s.startExtras(ctx))
	testutil.Must(t, s.cluster.makeObjects(ctx))
	s.awaitPods(ctx, t, nil)
	if len(nodeCommand()) > 0 {
		var err error
		s.idle, err = s.costs(ctx)
		testutil.Must(t, err)
	}
}

// awaitPods waits until each node's pods are ready, in other containers than old ones.
func (s *story) awaitPods(ctx context.Context, t *testing.T, old []pod) []pod {
	t.Helper()
	var pods []pod
	await(ctx, t, "the pods", func(ctx context.Context) (err error) {
		pods, err = s.cluster.readyPods(ctx, old)
		return err
	})
	return pods
}

// makeNamespace makes one for pods that have the host's network, or its ports.
func (c *cluster) makeNamespace(ctx context.Context, name string) error {
	space := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
		Name: name, Labels: map[string]string{"pod-security.kubernetes.io/enforce": "privileged"},
	}}
	if _, err := c.api.CoreV1().Namespaces().Create(ctx, space, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("making namespace %s: %w", name, err)
	}
	return nil
}

// removeNamespace asks for its end.
func (c *cluster) removeNamespace(ctx context.Context, name string) error {
	err := c.api.CoreV1().Namespaces().Delete(ctx, name, metav1.DeleteOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

func (c *cluster) namespaceGone(ctx context.Context, name string) error {
	_, err := c.api.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err == nil {
		err = fmt.Errorf("namespace %s is still there", name)
	}
	return err
}

// in picks the pods of a group.
func in(pods []pod, group string) []pod {
	return slices.DeleteFunc(slices.Clone(pods), func(one pod) bool { return one.group != group })
}

// on picks the pods of a node.
func on(pods []pod, node string) []pod {
	return slices.DeleteFunc(slices.Clone(pods), func(one pod) bool { return one.node != node })
}
