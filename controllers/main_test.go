package controllers

import (
	"context"
	"fmt"
	"os"
	"sync"
	"testing"

	"github.com/go-logr/logr"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"

	"github.com/plainroute/plainroute/test/apiserver"
)

// cluster is the one API server of all tests; nil until the first one needs it.
var cluster *apiServer

// needCluster starts it, and returns why there is none where there are no binaries. Tests that need none are quick.
var needCluster = sync.OnceValues(func() (skipReason string, err error) {
	if err := apiserver.Check(); err != nil {
		fmt.Fprintln(os.Stderr, "SKIP: tests with a real API server:", err)
		return err.Error(), nil
	}
	cluster, err = startAPIServer()
	return "", err
})

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	logger := logr.FromSlogHandler(currentBook{})
	ctrl.SetLogger(logger)
	klog.SetLogger(logger)
	code := m.Run()
	if cluster != nil {
		cluster.Stop()
	}
	return code
}

// apiServer is a real kube-apiserver with its etcd.
type apiServer struct {
	*apiserver.Server
	admin  *kubernetes.Clientset
	reader *rest.Config // of a user who may do what the agent may
}

func startAPIServer() (*apiServer, error) {
	server, err := apiserver.Start(apiserver.Options{RestrictNodes: true})
	if err != nil {
		return nil, err
	}
	s := &apiServer{Server: server, admin: server.Client}
	if s.reader, err = s.user("agent"); err == nil {
		err = s.grant("agent")
	}
	if err != nil {
		s.Stop()
		return nil, err
	}
	return s, nil
}

// user makes a user, who may do nothing unless a group of theirs may.
func (s *apiServer) user(name string, groups ...string) (*rest.Config, error) {
	user, err := s.User(name, groups...)
	if err != nil {
		return nil, err
	}
	return user.Config(), nil
}

// grant lets a user read Nodes.
func (s *apiServer) grant(name string) error {
	ctx, rbac := context.Background(), s.admin.RbacV1()
	role := &rbacv1.ClusterRole{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Rules:      []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"nodes"}, Verbs: []string{"list", "watch"}}},
	}
	binding := &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: name},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: name}},
	}
	if _, err := rbac.ClusterRoles().Create(ctx, role, metav1.CreateOptions{}); err != nil {
		return err
	}
	_, err := rbac.ClusterRoleBindings().Create(ctx, binding, metav1.CreateOptions{})
	return err
}
