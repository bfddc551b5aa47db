package kubelets

import (
	"crypto/tls"
	"crypto/x509"
	"net/netip"
	"os"
	"slices"
	"testing"

	"k8s.io/client-go/tools/clientcmd"
)

func newTestAuthority(t *testing.T) *authority {
	t.Helper()
	pki, err := newAuthority(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return pki
}

// A kubelet's serving certificate is good for its name and its addresses of both families, and for no others.
func TestServingCertificate(t *testing.T) {
	pki := newTestAuthority(t)
	addresses := []netip.Addr{netip.MustParseAddr("192.168.1.11"), netip.MustParseAddr("fd00::11")}
	if err := pki.issue("serving", identity{name: "node-1", names: []string{"node-1"}, addresses: addresses}); err != nil {
		t.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(pki.path("serving.crt"), pki.path("serving.key"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	content, err := os.ReadFile(pki.path("ca.crt"))
	if err != nil || !roots.AppendCertsFromPEM(content) {
		t.Fatalf("no certificate of an authority in %q: %v", content, err)
	}
	for name, good := range map[string]bool{"node-1": true, "192.168.1.11": true, "fd00::11": true, "node-2": false, "192.168.1.12": false} {
		_, err := pair.Leaf.Verify(x509.VerifyOptions{DNSName: name, Roots: roots})
		if (err == nil) != good {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The node authorizer identifies a kubelet by user system:node:NAME of the group system:nodes.
func TestKubeconfig(t *testing.T) {
	pki := newTestAuthority(t)
	if err := pki.kubeconfig("node-1", "https://192.168.1.1:6443", identity{name: "system:node:node-1", group: "system:nodes"}); err != nil {
		t.Fatal(err)
	}
	config, err := clientcmd.BuildConfigFromFlags("", pki.path("node-1.kubeconfig"))
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(config.CertData, config.KeyData)
	if err != nil {
		t.Fatal(err)
	}
	subject := pair.Leaf.Subject
	if subject.CommonName != "system:node:node-1" || !slices.Equal(subject.Organization, []string{"system:nodes"}) {
		t.Errorf("the kubeconfig is of %s", subject)
	}
}
