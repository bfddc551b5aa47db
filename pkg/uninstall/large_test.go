package uninstall

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	goruntime "runtime"
	"strconv"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"

	"github.com/plainroute/plainroute/pkg/kube"
)

// large are a Node and a pod as clusters have them: most of it is of no use here.
func large(i int) (corev1.Node, corev1.Pod) {
	name := fmt.Sprintf("node-%04d", i)
	n := corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelOSStable: "linux"}}}
	for j := range 50 {
		n.Status.Images = append(n.Status.Images, corev1.ContainerImage{Names: []string{fmt.Sprintf("registry.example/some/image-%d-%d@sha256:%s", i, j, strings.Repeat("0", 64))}})
	}
	yes := true
	p := corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "p-" + name, OwnerReferences: []metav1.OwnerReference{{UID: "of-the-set", Controller: &yes}}, Annotations: map[string]string{"a": strings.Repeat("x", 4000)}},
		Spec:       corev1.PodSpec{NodeName: name},
	}
	p.Status.InitContainerStatuses = []corev1.ContainerStatus{{Name: cleaner, State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Message: "{}"}}}}
	return n, p
}

// server lists so many of both, in pages if it is asked for them; in protobuf, which takes it a
// tenth of the time of JSON.
func server(t *testing.T, count int) (client *kube.Client, largest *int) {
	t.Helper()
	largest = new(int)
	encoder := protobuf.NewSerializer(scheme.Scheme, scheme.Scheme)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		query := r.URL.Query()
		from, _ := strconv.Atoi(query.Get("continue"))
		limit, _ := strconv.Atoi(query.Get("limit"))
		if limit == 0 || query.Get("resourceVersion") == "0" { // the API server's cache ignores the limit
			limit = count
		}
		more := metav1.ListMeta{}
		if from+limit < count {
			more.Continue = strconv.Itoa(from + limit)
		}
		nodes, pods := &corev1.NodeList{ListMeta: more}, &corev1.PodList{ListMeta: more}
		for i := from; i < min(from+limit, count); i++ {
			node, pod := large(i)
			nodes.Items, pods.Items = append(nodes.Items, node), append(pods.Items, pod)
		}
		*largest = max(*largest, len(nodes.Items))
		w.Header().Set("Content-Type", runtime.ContentTypeProtobuf)
		var list runtime.Object = nodes
		if strings.HasSuffix(r.URL.Path, "/pods") {
			list = pods
		}
		_ = encoder.Encode(list, w)
	}))
	t.Cleanup(s.Close)
	client, err := kube.New(&rest.Config{Host: s.URL, QPS: -1, ContentConfig: rest.ContentConfig{AcceptContentTypes: runtime.ContentTypeProtobuf}})
	if err != nil {
		t.Fatal(err)
	}
	return client, largest
}

// inUse returns the memory in use. It collects twice, because the second collection empties
// sync.Pools.
func inUse() int {
	var stats goruntime.MemStats
	goruntime.GC()
	goruntime.GC()
	goruntime.ReadMemStats(&stats)
	return int(stats.HeapAlloc)
}

// Among 5,000 nodes the Job has the memory that the agents have (the chart's resources).
func TestLargeClusterTakesLittleMemory(t *testing.T) {
	const count = 5000
	client, largest := server(t, count)
	u := &Uninstall{Client: client, Notify: t.Logf}
	before := inUse()
	nodes, err := u.nodes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	pods, err := u.pods(t.Context(), &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{UID: "of-the-set"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := u.deleteConditions(t.Context()); err != nil {
		t.Fatal(err)
	}
	after := inUse()
	if *largest > 500 {
		t.Errorf("%d Nodes or pods are asked for at once", *largest)
	}
	if kept := (after - before) / count; kept > 6000 {
		t.Errorf("%d bytes are kept of a Node and its pod", kept)
	}
	last := fmt.Sprintf("node-%04d", count-1)
	if len(nodes) != count || len(pods) != count || !isReal(nodes[last]) || (&nodeState{}).update(pods[last]) != clean {
		t.Errorf("%d Nodes and %d pods, of which the last are %+v, %+v", len(nodes), len(pods), nodes[last], pods[last])
	}
}
