package cluster

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
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	certutil "k8s.io/client-go/util/cert"
)

// Proxy is a way to the API server that can be told to misbehave. Unlike a Gate it reads what passes: it ends TLS with
// a certificate of its own, and is to the API server the agents' user, whoever asks.
type Proxy struct {
	kubeconfig string
	server     http.RoundTripper
	front      *http.Server

	mu       sync.Mutex
	trouble  Trouble
	requests int
	// era ends, and with it every request under way, when the trouble changes.
	era     context.Context
	nextEra context.CancelFunc
}

// Trouble answers a request in the place of the API server, or asks that and spoils its answer. An error cuts the
// request off without an answer.
type Trouble func(server http.RoundTripper, request *http.Request) (*http.Response, error)

// NewProxy makes a proxy at a port of the router's address that passes everything on until it is closed.
func (c *Cluster) NewProxy(port int) (*Proxy, error) {
	config, err := clientcmd.BuildConfigFromFlags("", c.plane.kubeconfig(AgentUser))
	if err != nil {
		return nil, fmt.Errorf("loading the agents' kubeconfig: %w", err)
	}
	p := &Proxy{}
	p.era, p.nextEra = context.WithCancel(context.Background())
	if p.server, err = rest.TransportFor(config); err != nil {
		return nil, fmt.Errorf("making the proxy's way to the API server: %w", err)
	}
	certificate, key, err := certutil.GenerateSelfSignedCertKey(Router4.String(), []net.IP{Router4.AsSlice()}, nil)
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

func (p *Proxy) listen(port int, pair tls.Certificate) error {
	listener, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", apiAddress(port))
	if err != nil {
		return fmt.Errorf("opening the proxy at port %d: %w", port, err)
	}
	quiet := log.New(io.Discard, "", 0)
	target := &url.URL{Scheme: "https", Host: apiAddress(apiPort)}
	forward := &httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(target) },
		Transport: p, FlushInterval: -1, ErrorLog: quiet,
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
	}
	p.front = &http.Server{
		Handler: p.bounded(forward), ErrorLog: quiet, ReadHeaderTimeout: probeTimeout,
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12},
	}
	go func() { _ = p.front.ServeTLS(listener, "", "") }()
	return nil
}

// Close cuts all off and lets go of the port.
func (p *Proxy) Close() {
	p.Misbehave(Hanging)
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

// RoundTrip answers a request as the proxy shall just now.
func (p *Proxy) RoundTrip(request *http.Request) (*http.Response, error) {
	p.mu.Lock()
	trouble := p.trouble
	p.requests++
	p.mu.Unlock()
	if trouble == nil {
		return p.server.RoundTrip(request)
	}
	return trouble(p.server, request)
}

// Kubeconfig leads to the proxy.
func (p *Proxy) Kubeconfig() string { return p.kubeconfig }

// Misbehave cuts off all requests under way and meets those that come from now on with trouble; nil: with none.
func (p *Proxy) Misbehave(trouble Trouble) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.nextEra()
	p.era, p.nextEra = context.WithCancel(context.Background())
	p.trouble, p.requests = trouble, 0
}

// AwaitRequests waits until so many requests have come since the proxy's behaviour was changed.
func (p *Proxy) AwaitRequests(ctx context.Context, count int) error {
	for {
		p.mu.Lock()
		came := p.requests
		p.mu.Unlock()
		if came >= count {
			return nil
		}
		if err := pause(ctx, 10*time.Millisecond); err != nil {
			return fmt.Errorf("waiting for %d requests, %d came: %w", count, came, err)
		}
	}
}
