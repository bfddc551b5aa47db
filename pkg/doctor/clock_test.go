package doctor

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/plainroute/plainroute/pkg/problem"
)

// A real API server's record of heartbeats shows kubelets with wrong clocks to a user who may list
// Nodes.
func TestClocksOfKubelets(t *testing.T) {
	s := newAPIServer(t)
	agent := s.agent()
	s.heartbeat("node1", 0)
	s.heartbeat("node2", -4*time.Minute) // sent long ago, before another write
	well(t, clocks(t.Context(), s.target(agent)))

	s.heartbeat("node3", 20*time.Second)
	finds(t, clocks(t.Context(), s.target(agent)), problem.Warning, "node3 wrote", "ahead of it")
	s.heartbeat("node4", -time.Hour)
	finds(t, clocks(t.Context(), s.target(agent)), problem.Error, "node3, node4", "behind it")

	s.renew("node1", 0)
	s.renew("node2", -20*time.Second)
	finds(t, clocks(t.Context(), s.target(s.config)), problem.Warning, "node2", "node2 wrote", "behind it")
}

// kubelet returns a client that the API server takes for a kubelet, by its user agent.
func (s *apiServer) kubelet() *kubernetes.Clientset {
	s.t.Helper()
	config := rest.CopyConfig(s.config)
	config.UserAgent = "kubelet/v1.37.2"
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		s.t.Fatal(err)
	}
	return client
}

// heartbeat posts a Node's status from a kubelet whose clock is ahead by so much.
func (s *apiServer) heartbeat(name string, ahead time.Duration) {
	s.t.Helper()
	nodes := s.kubelet().CoreV1().Nodes()
	node, err := nodes.Create(s.t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name}}}, metav1.CreateOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, LastHeartbeatTime: metav1.NewTime(time.Now().Add(ahead))}}
	if _, err := nodes.UpdateStatus(s.t.Context(), node, metav1.UpdateOptions{}); err != nil {
		s.t.Fatal(err)
	}
}

func (s *apiServer) renew(name string, ahead time.Duration) {
	s.t.Helper()
	now := metav1.NewMicroTime(time.Now().Add(ahead))
	lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: coordinationv1.LeaseSpec{HolderIdentity: &name, RenewTime: &now}}
	if _, err := s.kubelet().CoordinationV1().Leases(corev1.NamespaceNodeLease).Create(s.t.Context(), lease, metav1.CreateOptions{}); err != nil {
		s.t.Fatal(err)
	}
}

// ownClock judges the Date of an API server whose clock differs.
func TestOwnClock(t *testing.T) {
	loopback(t)
	var ahead time.Duration
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Date", time.Now().Add(-ahead).UTC().Format(http.TimeFormat))
		w.WriteHeader(http.StatusForbidden)
	}))
	defer server.Close()
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	p := &Target{API: &rest.Config{Host: server.URL, TLSClientConfig: rest.TLSClientConfig{CAData: ca}}}
	well(t, p.ownClock(t.Context()))
	ahead = 10 * time.Second
	found := p.ownClock(t.Context())
	finds(t, found, problem.Warning, "timedatectl")
	reportsAbout(t, found, 10*time.Second, "ahead of")
	ahead = -time.Hour
	found = p.ownClock(t.Context())
	finds(t, found, problem.Error)
	reportsAbout(t, found, time.Hour, "behind")
}

// reportsAbout fails the test unless the message has that difference, or one that is a second more
// or less, because a Date has whole seconds.
func reportsAbout(t *testing.T, found []problem.Problem, off time.Duration, side string) {
	t.Helper()
	for _, uncertainty := range []time.Duration{-time.Second, 0, time.Second} {
		if strings.Contains(found[0].Message, fmt.Sprintf(" %s %s ", off+uncertainty, side)) {
			return
		}
	}
	t.Errorf("want %s %s, give or take a second: %s", off, side, found[0].Message)
}

// A clock that is years off does not get as far as a Date.
func TestCertificateNotValidNow(t *testing.T) {
	loopback(t)
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().AddDate(1, 0, 0), NotAfter: time.Now().AddDate(2, 0, 0), IsCA: true,
		BasicConstraintsValid: true, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(http.NotFoundHandler())
	server.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // the client closes its connection
	server.StartTLS()
	defer server.Close()
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	p := &Target{API: &rest.Config{Host: server.URL, TLSClientConfig: rest.TLSClientConfig{CAData: ca}}}
	finds(t, p.ownClock(t.Context()), problem.Error, "not valid yet", "kubeadm certs renew")
}
