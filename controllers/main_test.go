package controllers

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
)

// cluster is the one API server of all tests; nil until the first one needs it.
var cluster *apiServer

// needCluster starts it, and returns why there is none where there are no binaries. Tests that need none are quick.
var needCluster = sync.OnceValues(func() (skipReason string, err error) {
	assets, err := findAssets()
	if err != nil {
		fmt.Fprintln(os.Stderr, "SKIP: tests with a real API server:", err)
		return err.Error(), nil
	}
	cluster, err = startAPIServer(assets)
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
		cluster.stop()
	}
	return code
}

// findAssets returns the folder of etcd and kube-apiserver.
func findAssets() (string, error) {
	dir := os.Getenv("KUBEBUILDER_ASSETS")
	if dir == "" {
		dir = filepath.Join("..", "bin", "k8s")
	}
	for _, name := range []string{"etcd", "kube-apiserver"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			return "", fmt.Errorf("no %s in %s; run `make assets`", name, dir)
		}
	}
	return filepath.Abs(dir)
}

// apiServer is a real kube-apiserver with its etcd.
type apiServer struct {
	plane  *envtest.ControlPlane
	admin  *kubernetes.Clientset
	reader *rest.Config // of a user who may do what the agent may
}

func startAPIServer(assets string) (*apiServer, error) {
	s := &apiServer{plane: &envtest.ControlPlane{
		Etcd:      &envtest.Etcd{Path: filepath.Join(assets, "etcd"), StartTimeout: time.Minute},
		APIServer: &envtest.APIServer{Path: filepath.Join(assets, "kube-apiserver"), StartTimeout: 2 * time.Minute},
	}}
	// As on real clusters: kubelets have the rights of their own Node, and no more.
	s.plane.APIServer.Configure().Set("authorization-mode", "Node,RBAC").Append("enable-admission-plugins", "NodeRestriction")
	if err := s.plane.Start(); err != nil {
		return nil, err
	}
	if err := s.prepare(); err != nil {
		s.stop()
		return nil, err
	}
	return s, nil
}

func (s *apiServer) stop() {
	if err := s.plane.Stop(); err != nil {
		fmt.Fprintln(os.Stderr, "stopping the API server:", err)
	}
}

func (s *apiServer) prepare() error {
	config, err := s.user("admin", "system:masters")
	if err != nil {
		return err
	}
	if s.admin, err = kubernetes.NewForConfig(config); err != nil {
		return err
	}
	if s.reader, err = s.user("agent"); err != nil {
		return err
	}
	return s.grant("agent")
}

// user makes a user, who may do nothing unless a group of theirs may.
func (s *apiServer) user(name string, groups ...string) (*rest.Config, error) {
	user, err := s.plane.AddUser(envtest.User{Name: name, Groups: groups}, &rest.Config{QPS: -1})
	if err != nil {
		return nil, fmt.Errorf("making user %s: %w", name, err)
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
