//go:build linux

package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	goruntime "runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
)

// large returns a Node with the size of real ones, most of which are names of images.
func large(i int) corev1.Node {
	n := corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("node-%04d", i), Annotations: map[string]string{"a": strings.Repeat("x", 500)}}}
	n.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "kubelet", Subresource: "status", Time: &metav1.Time{Time: time.Unix(1e9, 0)}, FieldsV1: metav1.NewFieldsV1(`{"f:status":{"` + strings.Repeat("y", 2000) + `":{}}}`)}}
	n.Spec.PodCIDRs = []string{fmt.Sprintf("10.%d.%d.0/24", i/250, i%250)}
	n.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: fmt.Sprintf("192.0.%d.%d", i/250, i%250)}}
	n.Status.NodeInfo.MachineID = strconv.Itoa(i)
	n.Status.Images = images
	return n
}

// images returns the images that a kubelet lists.
var images = slices.Repeat([]corev1.ContainerImage{{Names: []string{
	"registry.example/some/image@sha256:" + strings.Repeat("0", 64), "registry.example/some/image:v1.2.3",
}, SizeBytes: 1}}, 50)

// nodeServer lists Nodes, in pages on request.
func nodeServer(t *testing.T, count int) (config *rest.Config, largest *int) {
	largest = new(int)
	encoder := protobuf.NewSerializer(scheme.Scheme, scheme.Scheme)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if accept := r.Header.Get("Accept"); !strings.HasPrefix(accept, "application/vnd.kubernetes.protobuf") {
			t.Errorf("what is asked for is %s", accept)
		}
		query := r.URL.Query()
		from, _ := strconv.Atoi(query.Get("continue"))
		limit, _ := strconv.Atoi(query.Get("limit"))
		if limit == 0 || query.Get("resourceVersion") == "0" { // the API server's cache has no pages
			limit = count
		}
		list := corev1.NodeList{}
		for i := from; i < min(from+limit, count); i++ {
			list.Items = append(list.Items, large(i))
		}
		*largest = max(*largest, len(list.Items))
		if from+limit < count {
			list.Continue = strconv.Itoa(from + limit)
		}
		w.Header().Set("Content-Type", runtime.ContentTypeProtobuf)
		_ = encoder.Encode(&list, w)
	}))
	t.Cleanup(server.Close)
	return &rest.Config{Host: server.URL}, largest
}

// inUse returns the memory in use. The second collection frees the content of each sync.Pool.
func inUse() int {
	var stats goruntime.MemStats
	goruntime.GC()
	goruntime.GC()
	goruntime.ReadMemStats(&stats)
	return int(stats.HeapAlloc)
}

// doctor and its agent share a memory limit, so doctor among 5,000 Nodes must need little memory.
func TestNodesTakeLittleMemory(t *testing.T) {
	const count = 5000
	config, largest := nodeServer(t, count)
	before := inUse()
	nodes, err := nodesOfCluster(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	after := inUse()
	if *largest > 500 {
		t.Errorf("%d Nodes are asked for at once", *largest)
	}
	if kept := (after - before) / count; kept > 4096 {
		t.Errorf("%d bytes are kept of a Node", kept)
	}
	last := nodes[len(nodes)-1]
	if len(nodes) != count || len(last.Spec.PodCIDRs) != 1 || len(last.Status.Addresses) != 1 || last.Status.NodeInfo.MachineID == "" || len(last.ManagedFields) != 1 || last.ManagedFields[0].Time == nil {
		t.Errorf("%d Nodes, of which the last is %+v", len(nodes), last)
	}
}
