package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
)

const (
	apiPort = 6443

	// AgentUser is who the nodes' agents are to the API server: bound to what the agent needs, and to nothing more.
	AgentUser = "plainroute"

	serviceRange = "10.96.0.0/16"
)

// controlPlane is etcd and kube-apiserver in the LAN's namespace.
type controlPlane struct {
	servers *envtest.ControlPlane
	client  *kubernetes.Clientset
	dir     string
	// command is what a killed API server was started with.
	command []string
}

func startControlPlane(ctx context.Context, assets, dir string) (*controlPlane, error) {
	log, err := os.Create(filepath.Join(dir, "kube-apiserver.log"))
	if err != nil {
		return nil, fmt.Errorf("making the API server's log: %w", err)
	}
	defer log.Close()
	listen := envtest.ListenAddr{Address: Router4.String(), Port: strconv.Itoa(apiPort)}
	p := &controlPlane{dir: dir, servers: &envtest.ControlPlane{
		Etcd: &envtest.Etcd{Path: filepath.Join(assets, "etcd"), StartTimeout: time.Minute},
		APIServer: &envtest.APIServer{
			Path:          filepath.Join(assets, "kube-apiserver"),
			SecureServing: envtest.SecureServing{ListenAddr: listen},
			Out:           log,
			Err:           log,
			StartTimeout:  2 * time.Minute,
		},
	}}
	p.servers.APIServer.Configure().Set("service-cluster-ip-range", serviceRange)
	if err := p.servers.Start(); err != nil {
		return nil, fmt.Errorf("starting etcd and kube-apiserver of %s (log: %s): %w", assets, log.Name(), err)
	}
	if err := p.prepare(ctx); err != nil {
		return nil, err
	}
	return p, nil
}

// prepare makes an administrator's client and the agents' identity.
func (p *controlPlane) prepare(ctx context.Context) error {
	admin, err := p.servers.AddUser(envtest.User{Name: "admin", Groups: []string{"system:masters"}}, nil)
	if err != nil {
		return fmt.Errorf("making the administrator: %w", err)
	}
	config := admin.Config()
	config.QPS = -1
	p.client, err = kubernetes.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("making a client: %w", err)
	}
	if err := p.writeKubeconfig(admin, "admin"); err != nil {
		return err
	}
	if err := p.writeCertificates(config); err != nil {
		return err
	}
	if _, err := p.addUser(AgentUser); err != nil {
		return err
	}
	return p.grant(ctx, AgentUser)
}

// addUser makes an identity without any right and returns its kubeconfig's path.
func (p *controlPlane) addUser(name string) (string, error) {
	user, err := p.servers.AddUser(envtest.User{Name: name}, nil)
	if err != nil {
		return "", fmt.Errorf("making user %s: %w", name, err)
	}
	return p.kubeconfig(name), p.writeKubeconfig(user, name)
}

func (p *controlPlane) kubeconfig(user string) string {
	return filepath.Join(p.dir, user+".kubeconfig")
}

func (p *controlPlane) writeKubeconfig(user *envtest.AuthenticatedUser, name string) error {
	content, err := user.KubeConfig()
	if err != nil {
		return fmt.Errorf("rendering the kubeconfig of %s: %w", name, err)
	}
	if err := os.WriteFile(p.kubeconfig(name), content, 0o600); err != nil {
		return fmt.Errorf("writing the kubeconfig of %s: %w", name, err)
	}
	return nil
}

// writeCertificates writes the administrator's certificates as curl wants them: ca.crt, admin.crt, admin.key.
func (p *controlPlane) writeCertificates(config *rest.Config) error {
	for name, content := range map[string][]byte{
		"ca.crt": config.CAData, "admin.crt": config.CertData, "admin.key": config.KeyData,
	} {
		if err := os.WriteFile(filepath.Join(p.dir, name), content, 0o600); err != nil {
			return fmt.Errorf("writing the administrator's certificates: %w", err)
		}
	}
	return nil
}

// grant gives a user what the agent needs: read Nodes, and post Events, which land in the namespace default.
func (p *controlPlane) grant(ctx context.Context, user string) error {
	rbac := p.client.RbacV1()
	meta := metav1.ObjectMeta{Name: user}
	subjects := []rbacv1.Subject{{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: user}}
	nodes := rbacv1.PolicyRule{
		APIGroups: []string{""}, Resources: []string{"nodes"}, Verbs: []string{"get", "list", "watch"},
	}
	events := rbacv1.PolicyRule{
		APIGroups: []string{"", "events.k8s.io"}, Resources: []string{"events"}, Verbs: []string{"create", "patch"},
	}
	_, clusterRole := rbac.ClusterRoles().Create(ctx,
		&rbacv1.ClusterRole{ObjectMeta: meta, Rules: []rbacv1.PolicyRule{nodes}}, metav1.CreateOptions{})
	_, clusterBinding := rbac.ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{
		ObjectMeta: meta, Subjects: subjects,
		RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: user},
	}, metav1.CreateOptions{})
	_, role := rbac.Roles(metav1.NamespaceDefault).Create(ctx,
		&rbacv1.Role{ObjectMeta: meta, Rules: []rbacv1.PolicyRule{events}}, metav1.CreateOptions{})
	_, binding := rbac.RoleBindings(metav1.NamespaceDefault).Create(ctx, &rbacv1.RoleBinding{
		ObjectMeta: meta, Subjects: subjects,
		RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: user},
	}, metav1.CreateOptions{})
	if err := errors.Join(clusterRole, clusterBinding, role, binding); err != nil {
		return fmt.Errorf("granting %s an agent's rights: %w", user, err)
	}
	return nil
}

// apiAddress is host and port of the API server.
func apiAddress(port int) string { return net.JoinHostPort(Router4.String(), strconv.Itoa(port)) }
