package kube_test

import (
	"context"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"github.com/plainroute/plainroute/pkg/kube"
	"github.com/plainroute/plainroute/test/apiserver"
	"github.com/plainroute/plainroute/test/testutil"
)

func TestMain(m *testing.M) { os.Exit(apiserver.Run(m)) }

// A recorder records the headers of requests.
type recorder struct {
	http.RoundTripper

	mu      sync.Mutex
	headers []http.Header
}

func (r *recorder) RoundTrip(q *http.Request) (*http.Response, error) {
	r.mu.Lock()
	r.headers = append(r.headers, q.Header)
	r.mu.Unlock()
	return r.RoundTripper.RoundTrip(q)
}

// newClient returns an administrator's client of a real API server.
func newClient(t *testing.T) (*kube.Client, *recorder) {
	t.Helper()
	config, err := apiserver.Start(t).User("kube-admin", "system:masters")
	testutil.Must(t, err)
	return recorded(t, config)
}

func recorded(t *testing.T, config *rest.Config) (*kube.Client, *recorder) {
	t.Helper()
	recorder := &recorder{}
	config.Wrap(func(next http.RoundTripper) http.RoundTripper {
		recorder.RoundTripper = next
		return recorder
	})
	client, err := kube.New(config)
	testutil.Must(t, err)
	return client, recorder
}

func daemonSet(name string) *appsv1.DaemonSet {
	labels := map[string]string{"of": name}
	return &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}, Spec: appsv1.DaemonSetSpec{
		Selector: &metav1.LabelSelector{MatchLabels: labels},
		Template: corev1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}},
		},
	}}
}

// Objects of a namespace are created, read, selected and deleted, in protobuf.
func TestNamespacedObjects(t *testing.T) {
	client, recorder := newClient(t)
	ctx := t.Context()
	namespace, err := client.Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "kube-"}}, metav1.CreateOptions{})
	testutil.Must(t, err)
	sets := client.DaemonSets(namespace.Name)
	for _, name := range []string{"a", "b"} {
		created, err := sets.Create(ctx, daemonSet(name), metav1.CreateOptions{})
		if err != nil || created.Name != name || created.Namespace != namespace.Name || created.UID == "" {
			t.Fatalf("created %+v, %v", created, err)
		}
	}
	got, err := sets.Get(ctx, "a", metav1.GetOptions{})
	if err != nil || got.Spec.Template.Spec.Containers[0].Image != "i" {
		t.Errorf("got %+v, %v", got, err)
	}
	for _, from := range []string{namespace.Name, metav1.NamespaceAll} {
		list, err := client.DaemonSets(from).List(ctx, metav1.ListOptions{LabelSelector: "of=b"})
		if err != nil || len(list.Items) != 1 || list.Items[0].Name != "b" {
			t.Errorf("list of namespace %q: %+v, %v", from, list, err)
		}
	}
	testutil.Must(t, sets.Delete(ctx, "a", metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &got.UID}}))
	if _, err := sets.Get(ctx, "a", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("after the deletion: %v", err)
	}
	testutil.Must(t, sets.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "of=other"}))
	if left, err := sets.List(ctx, metav1.ListOptions{}); err != nil || len(left.Items) != 1 {
		t.Errorf("left are %+v, %v; want b", left, err)
	}
	testutil.Must(t, sets.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "of=b"}))
	if left, err := sets.List(ctx, metav1.ListOptions{}); err != nil || len(left.Items) != 0 {
		t.Errorf("left are %+v, %v; want none", left, err)
	}
	for _, header := range recorder.headers {
		if accept := header.Get("Accept"); !strings.HasPrefix(accept, runtime.ContentTypeProtobuf) {
			t.Errorf("a request accepts %q, want protobuf first", accept)
		}
	}
}

// Each kind is at its place of the API.
func TestEveryKind(t *testing.T) {
	client, _ := newClient(t)
	list := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Errorf("listing %s: %v", what, err)
		}
	}
	options, ctx := metav1.ListOptions{}, t.Context()
	_, err := client.Nodes().List(ctx, options)
	list("Nodes", err)
	_, err = client.Namespaces().List(ctx, options)
	list("Namespaces", err)
	_, err = client.Pods("").List(ctx, options)
	list("Pods", err)
	_, err = client.Services("").List(ctx, options)
	list("Services", err)
	_, err = client.Events("").List(ctx, options)
	list("Events", err)
	_, err = client.DaemonSets("").List(ctx, options)
	list("DaemonSets", err)
	_, err = client.Leases("").List(ctx, options)
	list("Leases", err)
}

// A patch of a subresource changes that alone, and returns the object.
func TestPatch(t *testing.T) {
	client, _ := newClient(t)
	_, err := client.Nodes().Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "kube-node"}}, metav1.CreateOptions{})
	testutil.Must(t, err)
	t.Cleanup(func() {
		testutil.Must(t, client.Nodes().Delete(context.Background(), "kube-node", metav1.DeleteOptions{}))
	})
	patch := `{"metadata":{"labels":{"a":"b"}},"status":{"conditions":[{"type":"NetworkUnavailable","status":"False"}]}}`
	n, err := client.Nodes().Patch(t.Context(), "kube-node", types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}, "status")
	if err != nil || len(n.Status.Conditions) != 1 {
		t.Errorf("patched %+v, %v", n, err)
	}
	_, err = client.Nodes().Patch(t.Context(), "other", types.MergePatchType, []byte("{}"), metav1.PatchOptions{})
	if !apierrors.IsNotFound(err) {
		t.Errorf("patching a Node that is missing: %v", err)
	}
}

// Connections begin where the API has them (the Kubernetes API reference, operations of Pod).
func TestConnectionURLs(t *testing.T) {
	config := &rest.Config{Host: "https://server:6443/prefix"}
	client, err := kube.New(config)
	testutil.Must(t, err)
	if got, want := client.PortForwardURL("ns", "pod").String(), "https://server:6443/prefix/api/v1/namespaces/ns/pods/pod/portforward"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	options := &corev1.PodExecOptions{Container: "agent", Command: []string{"a", "b c"}, Stdout: true}
	got := client.ExecURL("ns", "pod", options).String()
	if want := "https://server:6443/prefix/api/v1/namespaces/ns/pods/pod/exec?command=a&command=b+c&container=agent&stdout=true"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// A request names the program: by client-go's default, or as the config says. The config stays as it is.
func TestUserAgent(t *testing.T) {
	for given, want := range map[string]string{"": rest.DefaultKubernetesUserAgent(), "plainroute/1": "plainroute/1"} {
		config := apiserver.NewFake(t).Config
		config.UserAgent = given
		client, recorder := recorded(t, config)
		_, err := client.Nodes().List(t.Context(), metav1.ListOptions{})
		testutil.Must(t, err)
		if got := recorder.headers[0].Get("User-Agent"); got != want || config.UserAgent != given || config.APIPath != "" {
			t.Errorf("given %q, the requests have %q, want %q; the config is %+v", given, got, want, config)
		}
	}
}

// A config without a valid address is an error.
func TestInvalidConfig(t *testing.T) {
	if _, err := kube.New(&rest.Config{Host: "http://a b"}); err == nil || !strings.HasPrefix(err.Error(), "making a client: ") {
		t.Errorf("got %v", err)
	}
}
