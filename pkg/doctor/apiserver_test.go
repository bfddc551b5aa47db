package doctor

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	rtnl "github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
)

// apiServer is a real one, with its etcd, for one test.
type apiServer struct {
	t      *testing.T
	plane  *envtest.ControlPlane
	admin  *kubernetes.Clientset
	config *rest.Config // the administrator's
}

func newAPIServer(t *testing.T) *apiServer {
	t.Helper()
	if skipReason != "" {
		t.Skip(skipReason)
	}
	assets := os.Getenv("KUBEBUILDER_ASSETS")
	if assets == "" {
		assets = filepath.Join("..", "..", "bin", "k8s")
	}
	assets, err := filepath.Abs(assets)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(assets, "kube-apiserver")); err != nil {
		t.Skipf("no API server here, `make assets` gets it: %v", err)
	}
	loopback(t)
	s := &apiServer{t: t, plane: &envtest.ControlPlane{
		Etcd:      &envtest.Etcd{Path: filepath.Join(assets, "etcd"), StartTimeout: time.Minute},
		APIServer: &envtest.APIServer{Path: filepath.Join(assets, "kube-apiserver"), StartTimeout: 2 * time.Minute},
	}}
	s.plane.APIServer.Configure().Set("advertise-address", "192.0.2.1") // there is no default route to find one by
	if err := s.plane.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.plane.Stop(); err != nil {
			t.Error(err)
		}
	})
	s.config = s.user("admin", "system:masters")
	s.admin, err = kubernetes.NewForConfig(s.config)
	if err != nil {
		t.Fatal(err)
	}
	s.awaitNamespaces(metav1.NamespaceDefault, corev1.NamespaceNodeLease)
	return s
}

// awaitNamespaces waits for the namespaces that the API server creates at its start.
func (s *apiServer) awaitNamespaces(names ...string) {
	s.t.Helper()
	end := time.Now().Add(time.Minute)
	for _, name := range names {
		for {
			_, err := s.admin.CoreV1().Namespaces().Get(s.t.Context(), name, metav1.GetOptions{})
			if err == nil {
				break
			}
			if time.Now().After(end) {
				s.t.Fatal(err)
			}
			time.Sleep(50 * time.Millisecond)
		}
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
	user, err := s.plane.AddUser(envtest.User{Name: name, Groups: groups}, &rest.Config{QPS: -1})
	if err != nil {
		s.t.Fatal(err)
	}
	return user.Config()
}

// agent is a user with the agent's rights.
func (s *apiServer) agent() *rest.Config {
	s.t.Helper()
	ctx, rbac, meta := s.t.Context(), s.admin.RbacV1(), metav1.ObjectMeta{Name: "agent"}
	role := &rbacv1.ClusterRole{ObjectMeta: meta, Rules: []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"nodes"}, Verbs: []string{"list", "watch"}}}}
	if _, err := rbac.ClusterRoles().Create(ctx, role, metav1.CreateOptions{}); err != nil {
		s.t.Fatal(err)
	}
	binding := &rbacv1.ClusterRoleBinding{
		ObjectMeta: meta, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "agent"},
		Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: "agent"}},
	}
	if _, err := rbac.ClusterRoleBindings().Create(ctx, binding, metav1.CreateOptions{}); err != nil {
		s.t.Fatal(err)
	}
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
