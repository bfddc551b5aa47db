package apiserver

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// Server is a real kube-apiserver with its etcd. Tests of one process share it.
type Server struct {
	// Admin may do anything; Reader is a user who may read Nodes.
	Admin  *kubernetes.Clientset
	Reader *rest.Config

	plane *ControlPlane
}

var (
	// running is the server of this process; nil until the first test needs it.
	running *Server
	// start starts it, or returns why it can't.
	start = sync.OnceValues(func() (skipReason string, err error) {
		if err := Check(); err != nil {
			fmt.Fprintln(os.Stderr, "SKIP: tests with a real API server:", err)
			return err.Error(), nil
		}
		running, err = startServer()
		return "", err
	})
)

// Run runs the tests of a package, and stops the server afterwards. Call it from TestMain.
func Run(m *testing.M) int {
	code := m.Run()
	if running != nil {
		running.plane.Stop()
	}
	return code
}

// Start returns the server, and starts it if it does not run. Without its binaries the test is
// skipped.
func Start(t testing.TB) *Server {
	t.Helper()
	switch skipReason, err := start(); {
	case err != nil:
		t.Fatal("starting the API server:", err)
	case skipReason != "":
		t.Skip(skipReason)
	}
	return running
}

func startServer() (*Server, error) {
	plane, err := StartControlPlane(Options{RestrictNodes: true})
	if err != nil {
		return nil, err
	}
	s := &Server{Admin: plane.Client, plane: plane}
	if err := s.prepare(); err != nil {
		plane.Stop()
		return nil, err
	}
	return s, nil
}

func (s *Server) prepare() error {
	var err error
	if s.Reader, err = s.User("agent"); err != nil {
		return err
	}
	return s.Grant("agent")
}

// User returns the config of a new user, who has the rights of the groups.
func (s *Server) User(name string, groups ...string) (*rest.Config, error) {
	user, err := s.plane.User(name, groups...)
	if err != nil {
		return nil, err
	}
	return user.Config(), nil
}

// Grant grants a user the right to read Nodes, by a ClusterRole of the user's name, which Allow extends.
func (s *Server) Grant(name string) error {
	ctx, rbac := context.Background(), s.Admin.RbacV1()
	meta := metav1.ObjectMeta{Name: name}
	role := &rbacv1.ClusterRole{ObjectMeta: meta, Rules: []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"nodes"}, Verbs: []string{"list", "watch"}}}}
	binding := &rbacv1.ClusterRoleBinding{
		ObjectMeta: meta,
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: name},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: name}},
	}
	if _, err := rbac.ClusterRoles().Create(ctx, role, metav1.CreateOptions{}); err != nil {
		return err
	}
	_, err := rbac.ClusterRoleBindings().Create(ctx, binding, metav1.CreateOptions{})
	return err
}

// TestUser returns the config of a user of the test, who may read Nodes and do what the rules
// allow.
func (s *Server) TestUser(t *testing.T, rules ...rbacv1.PolicyRule) *rest.Config {
	t.Helper()
	config, err := s.User(userOf(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Grant(userOf(t)); err != nil {
		t.Fatal(err)
	}
	s.Allow(t, rules...)
	return config
}

// Allow adds rules to those of the test's user.
func (s *Server) Allow(t *testing.T, rules ...rbacv1.PolicyRule) {
	t.Helper()
	roles := s.Admin.RbacV1().ClusterRoles()
	role, err := roles.Get(context.Background(), userOf(t), metav1.GetOptions{})
	if err == nil {
		role.Rules = append(role.Rules, rules...)
		_, err = roles.Update(context.Background(), role, metav1.UpdateOptions{})
	}
	if err != nil {
		t.Fatal(err)
	}
}

func userOf(t *testing.T) string {
	return strings.ToLower(strings.NewReplacer("/", "-", " ", "-").Replace(t.Name()))
}

// MayPatch is the right to patch a resource of core/v1.
func MayPatch(resource string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{resource}, Verbs: []string{"patch"}}
}

// MayWriteEvents is the right that config/rbac grants the agent.
func MayWriteEvents() rbacv1.PolicyRule {
	return rbacv1.PolicyRule{APIGroups: []string{"events.k8s.io"}, Resources: []string{"events"}, Verbs: []string{"create", "patch"}}
}
