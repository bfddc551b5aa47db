package doctor

import (
	"testing"

	rtnl "github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/plainroute/plainroute/test/apiserver"
	"github.com/plainroute/plainroute/test/testutil"
)

// apiServer is a real one, with its etcd, for one test.
type apiServer struct {
	t *testing.T
	*apiserver.ControlPlane
	admin  *kubernetes.Clientset
	config *rest.Config // the administrator's
}

func newAPIServer(t *testing.T) *apiServer {
	t.Helper()
	testutil.NeedSandbox(t)
	loopback(t)
	s := &apiServer{t: t, ControlPlane: apiserver.ControlPlaneForTest(t, apiserver.Options{
		Flags: map[string]string{"advertise-address": "192.0.2.1"}, // there is no default route to find one by
	})}
	s.config, s.admin = s.Config, s.Client
	s.awaitNamespaces(metav1.NamespaceDefault, corev1.NamespaceNodeLease)
	return s
}

// awaitNamespaces waits for the namespaces that the API server creates at its start.
func (s *apiServer) awaitNamespaces(names ...string) {
	s.t.Helper()
	for _, name := range names {
		testutil.Await(s.t, func() error {
			_, err := s.admin.CoreV1().Namespaces().Get(s.t.Context(), name, metav1.GetOptions{})
			return err
		})
	}
}

func loopback(t *testing.T) {
	t.Helper()
	lo, err := rtnl.LinkByName("lo")
	if err == nil {
		err = rtnl.LinkSetUp(lo)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func (s *apiServer) user(name string, groups ...string) *rest.Config {
	s.t.Helper()
	user, err := s.User(name, groups...)
	testutil.Must(s.t, err)
	return user.Config()
}

// agent is a user with the agent's rights.
func (s *apiServer) agent() *rest.Config {
	s.t.Helper()
	nodes := rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"nodes"}, Verbs: []string{"list", "watch"}}
	testutil.Must(s.t, s.Grant(s.t.Context(), "agent", "", nodes))
	return s.user("agent")
}

// target has the client configuration of that user.
func (s *apiServer) target(config *rest.Config) *Target {
	s.t.Helper()
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		s.t.Fatal(err)
	}
	list, err := client.CoreV1().Nodes().List(s.t.Context(), metav1.ListOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	return &Target{Node: "node1", Nodes: list.Items, API: config}
}
