// Package apiserver runs a real etcd and kube-apiserver for tests.
package apiserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/plainroute/plainroute/test/testutil"
)

// Options configure a server. The zero value is a server on a free port of the loopback.
type Options struct {
	// Assets is the folder of both binaries, testutil.Assets() by default.
	Assets string
	// Listen is the address and port of the API server.
	Listen netip.AddrPort
	// Log receives the API server's output.
	Log io.Writer
	// Flags are flags of kube-apiserver, without their hyphens.
	Flags map[string]string
	// RestrictNodes gives kubelets the rights to their own Node and no more, as on real clusters.
	RestrictNodes bool
}

// Server is a running API server with its etcd.
type Server struct {
	// Config is the administrator's, and Client is a client that uses it.
	Config *rest.Config
	Client *kubernetes.Clientset

	plane *envtest.ControlPlane
	admin *envtest.AuthenticatedUser
	log   io.Writer
	// command is the command line of an API server that was killed.
	command []string
}

// Check returns an error that names the missing binaries, if any.
func Check() error { return testutil.Present(testutil.ControlPlane(testutil.Assets())...) }

// Start starts etcd and the API server, and waits until it answers.
func Start(options Options) (*Server, error) {
	if options.Assets == "" {
		options.Assets = testutil.Assets()
	}
	server := &envtest.APIServer{
		Path: filepath.Join(options.Assets, "kube-apiserver"), Out: options.Log, Err: options.Log, StartTimeout: 2 * time.Minute,
	}
	if at := options.Listen; at.IsValid() {
		server.SecureServing.ListenAddr = envtest.ListenAddr{Address: at.Addr().String(), Port: strconv.Itoa(int(at.Port()))}
	}
	flags := server.Configure()
	for name, value := range options.Flags {
		flags.Set(name, value)
	}
	if options.RestrictNodes {
		flags.Set("authorization-mode", "Node,RBAC").Append("enable-admission-plugins", "NodeRestriction")
	}
	s := &Server{log: options.Log, plane: &envtest.ControlPlane{
		Etcd:      &envtest.Etcd{Path: filepath.Join(options.Assets, "etcd"), StartTimeout: time.Minute},
		APIServer: server,
	}}
	if err := s.plane.Start(); err != nil {
		return nil, fmt.Errorf("starting etcd and kube-apiserver of %s: %w", options.Assets, err)
	}
	if err := s.prepare(); err != nil {
		return nil, errors.Join(err, s.plane.Stop())
	}
	return s, nil
}

// StartForTest starts a server that ends with the test. It skips the test where the binaries are missing.
func StartForTest(t testing.TB, options Options) *Server {
	t.Helper()
	if err := Check(); err != nil {
		t.Skip(err)
	}
	s, err := Start(options)
	testutil.Must(t, err)
	t.Cleanup(s.Stop)
	return s
}

func (s *Server) prepare() (err error) {
	if s.admin, err = s.User("admin", "system:masters"); err != nil {
		return err
	}
	s.Config = s.admin.Config()
	if s.Client, err = kubernetes.NewForConfig(s.Config); err != nil {
		return fmt.Errorf("making the administrator's client: %w", err)
	}
	return nil
}

// Stop ends both processes.
func (s *Server) Stop() {
	if err := s.plane.Stop(); err != nil {
		fmt.Fprintln(os.Stderr, "stopping the API server:", err)
	}
}

// User makes an identity, which has the rights of its groups and no others. Its client isn't throttled.
func (s *Server) User(name string, groups ...string) (*envtest.AuthenticatedUser, error) {
	user, err := s.plane.AddUser(envtest.User{Name: name, Groups: groups}, &rest.Config{QPS: -1})
	if err != nil {
		return nil, fmt.Errorf("making user %s: %w", name, err)
	}
	return user, nil
}

// Admin is the administrator, who has every right.
func (s *Server) Admin() *envtest.AuthenticatedUser { return s.admin }

// Grant gives a user rights in a namespace, or in the whole cluster if namespace is empty.
func (s *Server) Grant(ctx context.Context, user, namespace string, rules ...rbacv1.PolicyRule) error {
	return s.GrantTo(ctx, rbacv1.Subject{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: user}, namespace, rules...)
}

// GrantTo is Grant for any subject.
func (s *Server) GrantTo(ctx context.Context, subject rbacv1.Subject, namespace string, rules ...rbacv1.PolicyRule) error {
	meta, subjects := metav1.ObjectMeta{GenerateName: subject.Name + "-"}, []rbacv1.Subject{subject}
	ref := rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole"}
	rbac, options := s.Client.RbacV1(), metav1.CreateOptions{}
	var err, bindErr error
	if namespace == "" {
		var role *rbacv1.ClusterRole
		role, err = rbac.ClusterRoles().Create(ctx, &rbacv1.ClusterRole{ObjectMeta: meta, Rules: rules}, options)
		ref.Name = role.Name
		_, bindErr = rbac.ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{ObjectMeta: meta, Subjects: subjects, RoleRef: ref}, options)
	} else {
		var role *rbacv1.Role
		role, err = rbac.Roles(namespace).Create(ctx, &rbacv1.Role{ObjectMeta: meta, Rules: rules}, options)
		ref.Kind, ref.Name = "Role", role.Name
		_, bindErr = rbac.RoleBindings(namespace).Create(ctx, &rbacv1.RoleBinding{ObjectMeta: meta, Subjects: subjects, RoleRef: ref}, options)
	}
	if err := errors.Join(err, bindErr); err != nil {
		return fmt.Errorf("giving rights to %s: %w", subject.Name, err)
	}
	return nil
}
