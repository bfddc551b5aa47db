package kubelets

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	certutil "k8s.io/client-go/util/cert"
	"k8s.io/client-go/util/keyutil"
)

// authority signs the certificates of one cluster, which are all in one folder.
type authority struct {
	dir  string
	cert *x509.Certificate
	key  crypto.Signer
}

// lifetime of a certificate: that of a cluster left running by mistake.
const lifetime = 30 * 24 * time.Hour

func newAuthority(dir string) (*authority, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	cert, err := certutil.NewSelfSignedCACert(certutil.Config{CommonName: "plainroute-e2e"}, key)
	if err != nil {
		return nil, fmt.Errorf("making the certificate authority: %w", err)
	}
	a := &authority{dir: dir, cert: cert, key: key}
	return a, errors.Join(a.write("ca", cert, key), a.writeKey("service-accounts"))
}

func (a *authority) path(name string) string { return filepath.Join(a.dir, name) }

func (a *authority) write(name string, cert *x509.Certificate, key crypto.Signer) error {
	encoded, err := keyutil.MarshalPrivateKeyToPEM(key)
	if err != nil {
		return fmt.Errorf("encoding the key of %s: %w", name, err)
	}
	if err := keyutil.WriteKey(a.path(name+".key"), encoded); err != nil {
		return err
	}
	return certutil.WriteCert(a.path(name+".crt"), pem.EncodeToMemory(&pem.Block{Type: certutil.CertificateBlockType, Bytes: cert.Raw}))
}

// writeKey makes a key pair without a certificate.
func (a *authority) writeKey(name string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	encoded, err := keyutil.MarshalPrivateKeyToPEM(key)
	if err != nil {
		return err
	}
	return keyutil.WriteKey(a.path(name+".key"), encoded)
}

// identity is the subject of a certificate: a user and its group, or a server and its names and addresses.
type identity struct {
	name, group string
	names       []string
	addresses   []netip.Addr
}

// issue writes NAME.crt and NAME.key.
func (a *authority) issue(file string, id identity) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: id.name},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(lifetime),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		DNSNames:    id.names,
	}
	if id.group != "" {
		template.Subject.Organization = []string{id.group}
	}
	for _, address := range id.addresses {
		template.IPAddresses = append(template.IPAddresses, net.IP(address.AsSlice()))
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		return fmt.Errorf("signing the certificate of %s: %w", id.name, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return err
	}
	return a.write(file, cert, key)
}

// kubeconfig issues a certificate and writes NAME.kubeconfig, which holds it.
func (a *authority) kubeconfig(file, server string, id identity) error {
	if err := a.issue(file, id); err != nil {
		return err
	}
	parts := make([][]byte, 3)
	for i, name := range []string{"ca.crt", file + ".crt", file + ".key"} {
		content, err := os.ReadFile(a.path(name))
		if err != nil {
			return err
		}
		parts[i] = content
	}
	config := clientcmdapi.NewConfig()
	config.Clusters["plainroute-e2e"] = &clientcmdapi.Cluster{Server: server, CertificateAuthorityData: parts[0]}
	config.AuthInfos[id.name] = &clientcmdapi.AuthInfo{ClientCertificateData: parts[1], ClientKeyData: parts[2]}
	config.Contexts["plainroute-e2e"] = &clientcmdapi.Context{Cluster: "plainroute-e2e", AuthInfo: id.name}
	config.CurrentContext = "plainroute-e2e"
	return clientcmd.WriteToFile(*config, a.path(file+".kubeconfig"))
}
