// Package apiserver runs a real etcd and kube-apiserver for tests, and a Fake in their process.
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

// Options configure a control plane. The zero value listens on a free port of the loopback.
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

// ControlPlane is a running API server with its etcd.
type ControlPlane struct {
	// Config is the administrator's, and Client is a client that uses it.
	Config *rest.Config
	Client *kubernetes.Clientset

	plane *envtest.ControlPlane
	admin *envtest.AuthenticatedUser
	log   io.Writer
	// command is the command line of an API server that was killed.
	command []string
	// restarted is the API server that Restart started, and ended is closed when that has ended.
	restarted *os.Process
	ended     chan struct{}
}

// Check returns an error that names the missing binaries, if any.
func Check() error { return testutil.Present(testutil.ControlPlane(testutil.Assets())...) }

// StartControlPlane starts etcd and the API server, and waits until it answers.
func StartControlPlane(options Options) (*ControlPlane, error) {
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
	p := &ControlPlane{log: options.Log, plane: &envtest.ControlPlane{
		Etcd:      &envtest.Etcd{Path: filepath.Join(options.Assets, "etcd"), StartTimeout: time.Minute},
		APIServer: server,
	}}
	if err := p.plane.Start(); err != nil {
		return nil, fmt.Errorf("starting etcd and kube-apiserver of %s: %w", options.Assets, err)
	}
	if err := p.prepare(); err != nil {
		return nil, errors.Join(err, p.plane.Stop())
	}
	return p, nil
}

// ControlPlaneForTest starts one that ends with the test. It skips the test where the binaries are missing.
func ControlPlaneForTest(t testing.TB, options Options) *ControlPlane {
	t.Helper()
	if err := Check(); err != nil {
		t.Skip(err)
	}
	p, err := StartControlPlane(options)
	testutil.Must(t, err)
	t.Cleanup(p.Stop)
	return p
}

func (p *ControlPlane) prepare() (err error) {
	if p.admin, err = p.User("admin", "system:masters"); err != nil {
		return err
	}
	p.Config = p.admin.Config()
	if p.Client, err = kubernetes.NewForConfig(p.Config); err != nil {
		return fmt.Errorf("making the administrator's client: %w", err)
	}
	return nil
}

// Stop ends both processes.
func (p *ControlPlane) Stop() {
	if p.restarted != nil {
		_ = p.restarted.Kill() // it may have been killed again
		<-p.ended
	}
	if err := p.plane.Stop(); err != nil {
		fmt.Fprintln(os.Stderr, "stopping the API server:", err)
	}
}

// User makes an identity, which has the rights of its groups and no others. Its client isn't throttled.
func (p *ControlPlane) User(name string, groups ...string) (*envtest.AuthenticatedUser, error) {
	user, err := p.plane.AddUser(envtest.User{Name: name, Groups: groups}, &rest.Config{QPS: -1})
	if err != nil {
		return nil, fmt.Errorf("making user %s: %w", name, err)
	}
	return user, nil
}

// Admin is the administrator, who has every right.
func (p *ControlPlane) Admin() *envtest.AuthenticatedUser { return p.admin }

// Grant gives a user rights in a namespace, or in the whole cluster if namespace is empty.
func (p *ControlPlane) Grant(ctx context.Context, user, namespace string, rules ...rbacv1.PolicyRule) error {
	meta := metav1.ObjectMeta{GenerateName: user + "-"}
	subjects := []rbacv1.Subject{{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: user}}
	ref := rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole"}
	rbac, options := p.Client.RbacV1(), metav1.CreateOptions{}
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
		return fmt.Errorf("giving rights to %s: %w", user, err)
	}
	return nil
}
