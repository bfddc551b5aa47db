package inject

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync"
	"time"

	"k8s.io/client-go/rest"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	certutil "k8s.io/client-go/util/cert"

	"github.com/plainroute/plainroute/test/netlab"
	"github.com/plainroute/plainroute/test/nodelab"
	"github.com/plainroute/plainroute/test/testutil"
)

// Proxy is a proxy to the API server that injects faults into requests and answers. Unlike a Gate
// it reads requests and answers: it ends TLS with a certificate of its own, and sends every request
// as the agents' user, or as another one.
type Proxy struct {
	kubeconfig string
	server     http.RoundTripper
	front      *http.Server

	mu       sync.Mutex
	fault    Fault
	requests int
	// era ends, and with it every request under way, when the fault changes.
	era     context.Context
	nextEra context.CancelFunc
}

// Fault answers a request in the place of the API server, or changes the API server's answer. An error cuts the request
// off without an answer.
type Fault func(server http.RoundTripper, request *http.Request) (*http.Response, error)

// NewProxy makes a proxy at a port of the router's address that passes everything on.
func NewProxy(c *nodelab.Cluster, port int) (*Proxy, error) {
	config, err := c.AgentConfig()
	if err != nil {
		return nil, err
	}
	p := &Proxy{}
	p.era, p.nextEra = context.WithCancel(context.Background())
	if p.server, err = rest.TransportFor(config); err != nil {
		return nil, fmt.Errorf("making the proxy's transport: %w", err)
	}
	certificate, key, err := certutil.GenerateSelfSignedCertKey(netlab.Router4.String(), []net.IP{netlab.Router4.AsSlice()}, nil)
	if err != nil {
		return nil, fmt.Errorf("making the proxy's certificate: %w", err)
	}
	p.kubeconfig, err = c.Kubeconfig(fmt.Sprintf("proxy-%d", port), func(config *clientcmdapi.Config) {
		for _, server := range config.Clusters {
			server.Server, server.CertificateAuthorityData = "https://"+apiAddress(port), certificate
		}
		for _, user := range config.AuthInfos {
			*user = clientcmdapi.AuthInfo{}
		}
	})
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		return nil, fmt.Errorf("loading the proxy's certificate: %w", err)
	}
	return p, p.listen(port, pair)
}

// As sends requests as another user from now on, the one of a config.
func (p *Proxy) As(config *rest.Config) (err error) {
	p.server, err = rest.TransportFor(config)
	return err
}

// headerTimeout bounds the headers of a request.
const headerTimeout = 5 * time.Second

func (p *Proxy) listen(port int, pair tls.Certificate) error {
	listener, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", apiAddress(port))
	if err != nil {
		return fmt.Errorf("opening the proxy at port %d: %w", port, err)
	}
	quiet := log.New(io.Discard, "", 0)
	target := &url.URL{Scheme: "https", Host: apiAddress(nodelab.APIPort)}
	forward := &httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(target) },
		Transport: p, FlushInterval: -1, ErrorLog: quiet,
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
	}
	p.front = &http.Server{
		Handler: p.bounded(forward), ErrorLog: quiet, ReadHeaderTimeout: headerTimeout,
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12},
	}
	go func() { _ = p.front.ServeTLS(listener, "", "") }()
	return nil
}

// Close cuts off all requests and frees the port.
func (p *Proxy) Close() {
	p.Inject(Hanging)
	_ = p.front.Close()
}

// bounded ends each request with the era in which it came.
func (p *Proxy) bounded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		era := p.era
		p.mu.Unlock()
		ctx, cancel := context.WithCancel(r.Context())
		defer cancel()
		defer context.AfterFunc(era, cancel)()
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}

// RoundTrip answers a request, with the current fault.
func (p *Proxy) RoundTrip(request *http.Request) (*http.Response, error) {
	p.mu.Lock()
	fault := p.fault
	p.requests++
	p.mu.Unlock()
	if fault == nil {
		return p.server.RoundTrip(request)
	}
	return fault(p.server, request)
}

// Kubeconfig returns the path of a kubeconfig that leads to the proxy.
func (p *Proxy) Kubeconfig() string { return p.kubeconfig }

// Inject cuts off all requests under way and injects fault into those that come from now on. A nil fault ends injection.
func (p *Proxy) Inject(fault Fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.nextEra()
	p.era, p.nextEra = context.WithCancel(context.Background())
	p.fault, p.requests = fault, 0
}

// AwaitRequests waits until so many requests have come since the last call of Inject.
func (p *Proxy) AwaitRequests(ctx context.Context, count int) error {
	return testutil.Poll(ctx, 10*time.Millisecond, func() error {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.requests < count {
			return fmt.Errorf("%d requests came; want %d", p.requests, count)
		}
		return nil
	})
}
