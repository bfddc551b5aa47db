package nodelab

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/plainroute/plainroute/test/apiserver"
	"github.com/plainroute/plainroute/test/netlab"
)

const (
	// APIPort is the API server's port at the router's address.
	APIPort = 6443

	// AgentUser is the identity of the nodes' agents: it has the rights that an agent needs, and no others.
	AgentUser = "plainroute"

	serviceRange = "10.96.0.0/16"
)

var (
	// PodRange4 is the IPv4 part of the agents' --cluster-cidr.
	PodRange4 = netip.MustParsePrefix("10.244.0.0/16")
	// PodRange6 is its IPv6 part.
	PodRange6 = netip.MustParsePrefix("fd00:10:244::/48")
)

// startControlPlane starts the API server at the router's address and makes the agents' identity.
func (c *Cluster) startControlPlane(ctx context.Context) error {
	log, err := os.Create(filepath.Join(c.config.Dir, "kube-apiserver.log"))
	if err != nil {
		return fmt.Errorf("making the API server's log: %w", err)
	}
	c.API, err = apiserver.StartControlPlane(apiserver.Options{
		Assets: c.config.Assets, Log: log, Listen: netip.AddrPortFrom(netlab.Router4, APIPort),
		Flags: map[string]string{"service-cluster-ip-range": serviceRange},
	})
	if err != nil {
		return fmt.Errorf("%w (log: %s)", err, log.Name())
	}
	c.client = c.API.Client
	if err := c.writeKubeconfig(c.API.Admin(), "admin"); err != nil {
		return err
	}
	if err := c.writeCertificates(c.API.Config); err != nil {
		return err
	}
	if _, err := c.AddUser(AgentUser); err != nil {
		return err
	}
	return c.Grant(ctx, AgentUser)
}

// startFake starts a Fake at the router's address.
func (c *Cluster) startFake() error {
	var listen net.ListenConfig
	listener, err := listen.Listen(context.Background(), "tcp", netip.AddrPortFrom(netlab.Router4, APIPort).String())
	if err != nil {
		return fmt.Errorf("starting the API server: %w", err)
	}
	fake := apiserver.ServeFake(listener)
	if c.client, err = kubernetes.NewForConfig(fake.Config); err != nil {
		return fmt.Errorf("making a client of the API server: %w", err)
	}
	config := clientcmdapi.NewConfig()
	config.Clusters["fake"] = &clientcmdapi.Cluster{Server: fake.Config.Host}
	config.Contexts["fake"], config.CurrentContext = &clientcmdapi.Context{Cluster: "fake"}, "fake"
	if err := clientcmd.WriteToFile(*config, c.kubeconfig(AgentUser)); err != nil {
		return fmt.Errorf("writing the agents' kubeconfig: %w", err)
	}
	return nil
}

// AddUser makes an API identity without any right and returns its kubeconfig's path; Grant gives it the agent's rights.
func (c *Cluster) AddUser(name string) (kubeconfig string, err error) {
	user, err := c.API.User(name)
	if err != nil {
		return "", err
	}
	return c.kubeconfig(name), c.writeKubeconfig(user, name)
}

// Grant gives an identity the agent's rights: read Nodes, and post Events, which land in the namespace default.
func (c *Cluster) Grant(ctx context.Context, user string) error {
	err := c.API.Grant(ctx, user, "", rbacv1.PolicyRule{
		APIGroups: []string{""}, Resources: []string{"nodes"}, Verbs: []string{"get", "list", "watch"},
	})
	if err != nil {
		return err
	}
	return c.API.Grant(ctx, user, metav1.NamespaceDefault, rbacv1.PolicyRule{
		APIGroups: []string{"", "events.k8s.io"}, Resources: []string{"events"}, Verbs: []string{"create", "patch"},
	})
}

func (c *Cluster) kubeconfig(user string) string {
	return filepath.Join(c.config.Dir, user+".kubeconfig")
}

func (c *Cluster) writeKubeconfig(user *envtest.AuthenticatedUser, name string) error {
	content, err := user.KubeConfig()
	if err != nil {
		return fmt.Errorf("rendering the kubeconfig of %s: %w", name, err)
	}
	if err := os.WriteFile(c.kubeconfig(name), content, 0o600); err != nil {
		return fmt.Errorf("writing the kubeconfig of %s: %w", name, err)
	}
	return nil
}

// writeCertificates writes the administrator's certificates as curl takes them: ca.crt, admin.crt, admin.key.
func (c *Cluster) writeCertificates(config *rest.Config) error {
	for name, content := range map[string][]byte{
		"ca.crt": config.CAData, "admin.crt": config.CertData, "admin.key": config.KeyData,
	} {
		if err := os.WriteFile(filepath.Join(c.config.Dir, name), content, 0o600); err != nil {
			return fmt.Errorf("writing the administrator's certificates: %w", err)
		}
	}
	return nil
}

// AgentConfig returns the client configuration of the agents' identity.
func (c *Cluster) AgentConfig() (*rest.Config, error) {
	config, err := clientcmd.BuildConfigFromFlags("", c.kubeconfig(AgentUser))
	if err != nil {
		return nil, fmt.Errorf("loading the agents' kubeconfig: %w", err)
	}
	return config, nil
}

// Kubeconfig writes a changed copy of the agents' kubeconfig and returns its path.
func (c *Cluster) Kubeconfig(name string, change func(*clientcmdapi.Config)) (string, error) {
	config, err := clientcmd.LoadFromFile(c.kubeconfig(AgentUser))
	if err != nil {
		return "", fmt.Errorf("loading the agents' kubeconfig: %w", err)
	}
	change(config)
	if err := clientcmd.WriteToFile(*config, c.kubeconfig(name)); err != nil {
		return "", fmt.Errorf("writing kubeconfig %s: %w", name, err)
	}
	return c.kubeconfig(name), nil
}
