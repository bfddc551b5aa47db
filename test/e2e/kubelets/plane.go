package kubelets

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/plainroute/plainroute/test/netlab"
	"github.com/plainroute/plainroute/test/testutil"
)

const (
	podRanges     = "10.244.0.0/16,fd00:10:244::/56"
	serviceRanges = "10.96.0.0/16,fd00:10:96::/112"
	clusterDNS    = "10.96.0.10"
	apiPort       = 6443
)

// APIServer is its address for all: that of the LAN's router, on which the control plane runs.
func APIServer() netip.AddrPort { return netip.AddrPortFrom(netlab.Router4, apiPort) }

func apiURL() string { return "https://" + APIServer().String() }

// issueAll makes the certificates of the control plane.
func (c *Cluster) issueAll() error {
	names := []string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"}
	addresses := []netip.Addr{netlab.Router4, netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("10.96.0.1"), netip.MustParseAddr("fd00:10:96::1")}
	if err := c.pki.issue("kube-apiserver", identity{name: "kube-apiserver", names: names, addresses: addresses}); err != nil {
		return err
	}
	for file, id := range map[string]identity{
		"admin":                   {name: "admin", group: "system:masters"},
		"kubelet-client":          {name: "kube-apiserver", group: "system:masters"},
		"kube-controller-manager": {name: "system:kube-controller-manager"},
		"kube-scheduler":          {name: "system:kube-scheduler"},
		"kube-proxy":              {name: "system:kube-proxy"},
	} {
		if err := c.pki.kubeconfig(file, apiURL(), id); err != nil {
			return err
		}
	}
	return nil
}

// startPlane starts the control plane and waits until the API server is ready. Components that need
// it wait for it themselves.
func (c *Cluster) startPlane(ctx context.Context) error {
	if err := c.issueAll(); err != nil {
		return err
	}
	pki := c.pki.path
	if err := c.start("etcd", filepath.Join(c.config.Bin, "k8s", "etcd"),
		"--data-dir", filepath.Join(c.config.Dir, "etcd"), "--unsafe-no-fsync",
		"--listen-client-urls", "http://127.0.0.1:2379", "--advertise-client-urls", "http://127.0.0.1:2379",
		"--listen-peer-urls", "http://127.0.0.1:2380"); err != nil {
		return err
	}
	if err := c.start("kube-apiserver", filepath.Join(c.config.Bin, "k8s", "kube-apiserver"),
		"--etcd-servers=http://127.0.0.1:2379", "--advertise-address="+netlab.Router4.String(), fmt.Sprint("--secure-port=", apiPort),
		"--service-cluster-ip-range="+serviceRanges,
		"--client-ca-file="+pki("ca.crt"), "--tls-cert-file="+pki("kube-apiserver.crt"), "--tls-private-key-file="+pki("kube-apiserver.key"),
		"--kubelet-client-certificate="+pki("kubelet-client.crt"), "--kubelet-client-key="+pki("kubelet-client.key"),
		"--kubelet-certificate-authority="+pki("ca.crt"), "--kubelet-preferred-address-types=InternalIP",
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
		"--service-account-key-file="+pki("service-accounts.key"), "--service-account-signing-key-file="+pki("service-accounts.key"),
		"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction", "--allow-privileged",
		"--profiling=false"); err != nil {
		return err
	}
	if err := c.awaitAPI(ctx); err != nil {
		return err
	}
	e2e := filepath.Join(c.config.Bin, "e2e")
	if err := c.start("kube-controller-manager", filepath.Join(e2e, "kube-controller-manager"),
		"--kubeconfig="+pki("kube-controller-manager.kubeconfig"), "--allocate-node-cidrs", "--cluster-cidr="+podRanges,
		"--service-cluster-ip-range="+serviceRanges, "--root-ca-file="+pki("ca.crt"),
		"--service-account-private-key-file="+pki("service-accounts.key"), "--use-service-account-credentials",
		"--leader-elect=false", "--kube-api-qps=300", "--kube-api-burst=600", "--bind-address=127.0.0.1",
		"--flex-volume-plugin-dir="+filepath.Join(c.config.Dir, "flex")); err != nil {
		return err
	}
	return c.start("kube-scheduler", filepath.Join(e2e, "kube-scheduler"),
		"--kubeconfig="+pki("kube-scheduler.kubeconfig"), "--leader-elect=false", "--bind-address=127.0.0.1")
}

// limit of a single wait, on a machine under load, and how often is looked.
const (
	limit    = 2 * time.Minute
	interval = 20 * time.Millisecond
)

func (c *Cluster) awaitAPI(ctx context.Context) error {
	config, err := clientcmd.BuildConfigFromFlags("", c.Kubeconfig())
	if err != nil {
		return fmt.Errorf("reading the administrator's kubeconfig: %w", err)
	}
	config.QPS = -1
	if c.api, err = kubernetes.NewForConfig(config); err != nil {
		return err
	}
	return c.await(ctx, "the API server", func(ctx context.Context) error {
		status := 0
		err := c.api.RESTClient().Get().AbsPath("/readyz").Do(ctx).StatusCode(&status).Error()
		if err == nil && status != http.StatusOK {
			err = fmt.Errorf("status %d", status)
		}
		return err
	})
}

// await polls until ready finds nothing missing, or a process of the cluster ends.
func (c *Cluster) await(ctx context.Context, what string, ready func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	err := testutil.Poll(ctx, interval, func() error {
		err := ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case name := <-c.ended:
			end(fmt.Errorf("%s has ended, see %s", name, c.log(name)))
		default:
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("waiting for %s: %w", what, err)
	}
	return nil
}

func (c *Cluster) log(name string) string { return filepath.Join(c.config.Logs, name+".log") }

// Kubeconfig is the administrator's, for use inside the sandbox.
func (c *Cluster) Kubeconfig() string { return c.pki.path("admin.kubeconfig") }

func (c *Cluster) openLog(name string) (*os.File, error) {
	return os.OpenFile(c.log(name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
}
