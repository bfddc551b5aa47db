package checks

import (
	"context"
	"fmt"
	"io"
	"slices"
	"sync"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/plainroute/plainroute/test/testutil"
)

// Nodes are drawn by their names: here all have one hostname, as clones of a machine may.
func TestDrawnByName(t *testing.T) {
	var names []string
	for i := range 6 {
		names = append(names, fmt.Sprintf("node-%d", i+1))
	}
	c, p := play(t, names...)
	r := testRun(p)
	r.MaxNodes = 3
	var mu sync.Mutex
	var placed []string // by the API server, while the pods are asked
	post := r.Post
	r.Post = func(ctx context.Context, namespace, pod, path string, body []byte) (io.ReadCloser, error) {
		pods, err := c.Client().CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return nil, err
		}
		mu.Lock()
		defer mu.Unlock()
		placed = nil
		for i := range pods.Items {
			placed = append(placed, pods.Items[i].Spec.NodeName)
		}
		return post(ctx, namespace, pod, path, body)
	}
	result, err := r.Do(t.Context())
	testutil.Must(t, err)
	slices.Sort(placed)
	placed = slices.Compact(placed)
	if !result.OK() || !result.Sampled || !slices.Equal(result.Nodes, placed) || len(placed) != 3 {
		t.Errorf("%+v, with pods on %v; want three nodes drawn, which alone have pods", result, placed)
	}
}
