package fleet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	ctrlclient "sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/plainroute/plainroute/pkg/kube"
	"github.com/plainroute/plainroute/pkg/status"
	"github.com/plainroute/plainroute/test/apiserver"
	"github.com/plainroute/plainroute/test/testutil"
)

const namespace = "plainroute-system"

// server is a real API server, whose Nodes and pods are stand-ins.
type server struct {
	*apiserver.ControlPlane
	admin *kubernetes.Clientset
	set   *appsv1.DaemonSet // the agents'
}

func startServer(t *testing.T) *server {
	t.Helper()
	s := &server{ControlPlane: apiserver.ControlPlaneForTest(t, apiserver.Options{Flags: map[string]string{
		"authorization-mode": "RBAC", "disable-admission-plugins": "ServiceAccount",
	}})}
	s.admin = s.Client
	_, err := s.admin.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{})
	testutil.Must(t, err)
	s.set = s.daemonSet(t, namespace)
	return s
}

// daemonSet creates one as the manifests have it. No controller makes its pods here.
func (s *server) daemonSet(t *testing.T, namespace string) *appsv1.DaemonSet {
	t.Helper()
	labels := map[string]string{"app.kubernetes.io/part-of": "plainroute", "app.kubernetes.io/component": "agent"}
	set, err := s.admin.AppsV1().DaemonSets(namespace).Create(t.Context(), &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Name: "plainroute", Labels: labels},
		Spec: appsv1.DaemonSetSpec{
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "agent", Image: "plainroute:1"}}},
			},
		},
	}, metav1.CreateOptions{})
	testutil.Must(t, err)
	return set
}

func controlledBy(set *appsv1.DaemonSet) []metav1.OwnerReference {
	return []metav1.OwnerReference{*metav1.NewControllerRef(set, appsv1.SchemeGroupVersion.WithKind("DaemonSet"))}
}

func (s *server) user(t *testing.T, name string, groups ...string) *rest.Config {
	t.Helper()
	user, err := s.User(name, groups...)
	testutil.Must(t, err)
	return user.Config()
}

// node makes a Node whose kubelet listens on a port of this machine.
func (s *server) node(t *testing.T, name string, port int, labels map[string]string) {
	t.Helper()
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}
	node, err := s.admin.CoreV1().Nodes().Create(t.Context(), node, metav1.CreateOptions{})
	testutil.Must(t, err)
	node.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "127.0.0.1"}}
	node.Status.DaemonEndpoints.KubeletEndpoint.Port = int32(port)
	node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
	_, err = s.admin.CoreV1().Nodes().UpdateStatus(t.Context(), node, metav1.UpdateOptions{})
	testutil.Must(t, err)
}

// agent makes a pod of an agent with a state of its container, listening on a port.
func (s *server) agent(t *testing.T, node string, port int, state corev1.ContainerState) {
	t.Helper()
	s.pod(t, namespace, "plainroute-"+node, node, port, state, controlledBy(s.set))
}

// pod makes one with the agents' label.
func (s *server) pod(t *testing.T, namespace, name, node string, port int, state corev1.ContainerState, owners []metav1.OwnerReference) {
	t.Helper()
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app.kubernetes.io/part-of": "plainroute", "app.kubernetes.io/component": "agent"}, OwnerReferences: owners},
		Spec: corev1.PodSpec{NodeName: node, HostNetwork: true, Containers: []corev1.Container{{
			Name: "agent", Image: "plainroute:1", Env: []corev1.EnvVar{{Name: "PLAINROUTE_LISTEN", Value: "127.0.0.1:" + strconv.Itoa(port)}},
		}}},
	}
	pod, err := s.admin.CoreV1().Pods(namespace).Create(t.Context(), pod, metav1.CreateOptions{})
	testutil.Must(t, err)
	pod.Status.Phase = corev1.PodRunning
	pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "agent", State: state}}
	_, err = s.admin.CoreV1().Pods(namespace).UpdateStatus(t.Context(), pod, metav1.UpdateOptions{})
	testutil.Must(t, err)
}

func up() corev1.ContainerState {
	return corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.Now()}}
}

// agentOn is an agent whose report names a node; wait delays the response.
func agentOn(t *testing.T, node string, wait time.Duration) (port int) {
	t.Helper()
	own := &status.Server{Latest: &status.Latest{}, Metrics: prometheus.NewRegistry(), Status: true}
	own.Latest.Publish(&status.Result{Version: "v1", Node: node, Ready: true})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-time.After(wait):
			own.HTTP().Handler.ServeHTTP(w, r)
		case <-r.Context().Done():
		}
	}))
	t.Cleanup(server.Close)
	return portOn(t, server.Listener)
}

func portOn(t *testing.T, l net.Listener) int {
	t.Helper()
	address, ok := l.Addr().(*net.TCPAddr)
	if !ok {
		t.Fatalf("%s has no port", l.Addr())
	}
	return address.Port
}

// closed is a port without a listener that no other process can get.
const closed = 1

// TestCollect asks agents by way of a real API server and a stand-in for kubelets.
func TestCollect(t *testing.T) {
	s := startServer(t)
	s.populate(t)
	all := s.user(t, "admin", "system:masters")

	t.Run("all there is to hear", func(t *testing.T) {
		wait(t, func() string { return rowsOf(t, s.survey(t, all, "", 5*time.Second)) },
			"answers: v1",
			"closed: NoAnswer: no answer from the agent: nothing listens on port",
			"crashes: NotRunning: the agent does not run: CrashLoopBackOff: back-off 5m0s; it last ended with exit code 2 (kubectl -n plainroute-system logs plainroute-crashes -p)",
			"hangs: NoAnswer: no answer from the agent: it runs, but did not answer within 5s",
			"impostor: Unreadable: this version can't read the report of the agent (plainroute:1): it is that of node answers",
			"none: NoAgent: no agent runs here",
			"other: Unreadable: this version can't read the report of the agent (plainroute:1): invalid character",
			"virtual: NotManaged: no agent is supposed to run here: the Node has the label type=virtual-kubelet")
	})
	t.Run("in another namespace", func(t *testing.T) {
		if got := rowsOf(t, s.survey(t, all, "default", time.Second)); !strings.Contains(got, "answers: NoAgent: no agent runs on any node: plainroute is not installed") || !strings.Contains(got, "searched in: default") {
			t.Errorf("got:\n%s", got)
		}
	})
	t.Run("interrupted", func(t *testing.T) { s.interrupted(t, all) })
	t.Run("rights", s.rights)
	t.Run("tenants", s.tenants)
}

func (s *server) populate(t *testing.T) {
	port := kubelet(t)
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "hello") }))
	t.Cleanup(other.Close)
	for node, state := range map[string]struct {
		port  int
		state corev1.ContainerState
	}{
		"answers":  {agentOn(t, "answers", 0), up()},
		"closed":   {closed, up()},
		"crashes":  {1, corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff", Message: "back-off 5m0s"}}},
		"hangs":    {agentOn(t, "hangs", time.Minute), up()},
		"impostor": {agentOn(t, "answers", 0), up()},
		"other":    {portOn(t, other.Listener), up()},
	} {
		s.node(t, node, port, nil)
		s.agent(t, node, state.port, state.state)
	}
	s.node(t, "none", port, nil)
	s.node(t, "virtual", port, map[string]string{"type": "virtual-kubelet"})
	pod, err := s.admin.CoreV1().Pods(namespace).Get(t.Context(), "plainroute-crashes", metav1.GetOptions{})
	testutil.Must(t, err)
	pod.Status.ContainerStatuses[0].LastTerminationState.Terminated = &corev1.ContainerStateTerminated{ExitCode: 2}
	_, err = s.admin.CoreV1().Pods(namespace).UpdateStatus(t.Context(), pod, metav1.UpdateOptions{})
	testutil.Must(t, err)
}

func (s *server) by(t *testing.T, config *rest.Config, namespace string, timeout time.Duration) *Collector {
	t.Helper()
	client, err := kube.New(config)
	testutil.Must(t, err)
	forward := &Forward{Config: config, Client: client}
	return &Collector{Client: client, Get: forward.Get, Namespace: namespace, Parallel: 3, Timeout: timeout}
}

func (s *server) survey(t *testing.T, config *rest.Config, namespace string, timeout time.Duration) *Cluster {
	t.Helper()
	c, err := s.by(t, config, namespace, timeout).Collect(t.Context())
	testutil.Must(t, err)
	return c
}

// rowsOf returns the Node, NoReport and message of each Row, one a line.
func rowsOf(t *testing.T, c *Cluster) string {
	t.Helper()
	var text strings.Builder
	for i := range c.Nodes {
		row := &c.Nodes[i]
		if row.Report != nil {
			fmt.Fprintf(&text, "%s: %s\n", row.Node, row.Version())
			continue
		}
		fmt.Fprintf(&text, "%s: %s: %s\n", row.Node, row.NoReport, row.Message)
	}
	return text.String()
}

// interrupted ends at once, though an agent hangs.
func (s *server) interrupted(t *testing.T, config *rest.Config) {
	ctx, cancel := context.WithCancel(t.Context())
	defer time.AfterFunc(time.Second, cancel).Stop()
	start := time.Now()
	_, err := s.by(t, config, "", time.Minute).Collect(ctx)
	if took := time.Since(start); !errors.Is(err, context.Canceled) || took > 30*time.Second {
		t.Errorf("got %v after %s, want that it was cancelled at once", err, took)
	}
}

// Rights are added one by one, and the message names the missing one.
func (s *server) rights(t *testing.T) {
	user := s.user(t, "user", "users")
	refused := func() string {
		got, err := s.by(t, user, "", time.Second).Collect(t.Context())
		if err != nil {
			return err.Error()
		}
		return rowsOf(t, got)
	}
	wait(t, refused, `listing the agents' DaemonSets: daemonsets.apps is forbidden: User "user" cannot list resource "daemonsets" in API group "apps" in the namespace "plainroute-system"`)
	s.grant(t, "sets", rbacv1.PolicyRule{APIGroups: []string{"apps"}, Resources: []string{"daemonsets"}, Verbs: []string{"list"}})
	wait(t, refused, `cannot list resource`)
	s.grant(t, "list", rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"nodes", "pods"}, Verbs: []string{"list"}})
	wait(t, refused, "answers: Forbidden: you lack the right to create pods/portforward in the namespace plainroute-system")
	s.grant(t, "create", rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"pods/portforward"}, Verbs: []string{"create"}})
	wait(t, func() string { return rowsOf(t, s.survey(t, user, namespace, time.Second)) }, "answers: v1\n")

	s.apply(t, filepath.Join("..", "..", "config", "samples", "viewer", "viewer.yaml"))
	viewer := s.user(t, "viewer", "plainroute-viewers")
	wait(t, func() string {
		got, err := s.by(t, viewer, namespace, time.Second).Collect(t.Context())
		if err != nil {
			return err.Error()
		}
		return rowsOf(t, got)
	}, "answers: v1\n")
	wait(t, func() string { return rowsOf(t, s.survey(t, viewer, "", time.Second)) }, "answers: v1\n") // without a namespace
	if _, err := s.by(t, viewer, "default", time.Second).Collect(t.Context()); !apierrors.IsForbidden(err) {
		t.Errorf("got %v for a viewer who asks for another namespace", err)
	}
}

// apply makes all objects of a file, those with a namespace in that of the agents.
func (s *server) apply(t *testing.T, file string) {
	t.Helper()
	text, err := os.Open(file)
	testutil.Must(t, err)
	defer text.Close()
	client, err := ctrlclient.New(s.user(t, "admin", "system:masters"), ctrlclient.Options{})
	testutil.Must(t, err)
	for documents := yaml.NewYAMLOrJSONDecoder(text, 4096); ; {
		var o unstructured.Unstructured
		err := documents.Decode(&o)
		if errors.Is(err, io.EOF) {
			return
		}
		testutil.Must(t, err)
		if !strings.HasPrefix(o.GetKind(), "Cluster") {
			o.SetNamespace(namespace)
		}
		testutil.Must(t, client.Create(t.Context(), &o))
	}
}

func (s *server) grant(t *testing.T, name string, rule rbacv1.PolicyRule) {
	t.Helper()
	role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: []rbacv1.PolicyRule{rule}}
	_, err := s.admin.RbacV1().ClusterRoles().Create(t.Context(), role, metav1.CreateOptions{})
	testutil.Must(t, err)
	binding := &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: name},
		Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "Group", Name: "users"}},
	}
	_, err = s.admin.RbacV1().ClusterRoleBindings().Create(t.Context(), binding, metav1.CreateOptions{})
	testutil.Must(t, err)
}

// wait asks until the answer has in it what is wanted: rights take effect a little later.
func wait(t *testing.T, ask func() string, wants ...string) {
	t.Helper()
	testutil.AwaitWithin(t, time.Minute, 100*time.Millisecond, func() error {
		got := ask()
		if slices.ContainsFunc(wants, func(want string) bool { return !strings.Contains(got, want) }) {
			return fmt.Errorf("not all of %q in:\n%s", wants, got)
		}
		return nil
	})
}
