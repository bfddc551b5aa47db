package status

import (
	"bufio"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/topology"
)

func newServer() *Server {
	registry := prometheus.NewRegistry()
	registry.MustRegister(prometheus.NewGauge(prometheus.GaugeOpts{Name: "answer"}))
	return &Server{Latest: &Latest{}, Healthy: func() error { return nil }, Metrics: registry, Status: true}
}

func ask(s *Server, method, path string) (code int, header http.Header, body string) {
	w := httptest.NewRecorder()
	s.HTTP().Handler.ServeHTTP(w, httptest.NewRequest(method, path, nil))
	return w.Code, w.Header(), w.Body.String()
}

func TestEndpoints(t *testing.T) {
	s := newServer()
	s.Latest.Publish(example())
	for _, c := range []struct {
		method, path string
		code         int
		kind, part   string
	}{
		{"GET", "/healthz", 200, "text/plain", "ok\n"},
		{"GET", "/readyz", 200, "text/plain", "ok\n"},
		{"GET", "/status", 200, "application/json", `"node": "node1"`},
		{"GET", "/metrics", 200, "text/plain", "answer 0"},
		{"HEAD", "/readyz", 200, "text/plain", ""},
		{"POST", "/readyz", 405, "", ""},
		{"DELETE", "/status", 405, "", ""},
		{"GET", "/", 404, "", ""},
		{"GET", "/status/more", 404, "", ""},
		{"GET", "/debug/pprof/", 404, "", ""},
	} {
		code, header, body := ask(s, c.method, c.path)
		if code != c.code || !strings.HasPrefix(header.Get("Content-Type"), c.kind) || !strings.Contains(body, c.part) {
			t.Errorf("%s %s: %d %s %q, want %d %s %q", c.method, c.path, code, header.Get("Content-Type"), body, c.code, c.kind, c.part)
		}
	}
}

// The port for Prometheus serves metrics only.
func TestMetricsOnly(t *testing.T) {
	s := &Server{Metrics: newServer().Metrics}
	for path, want := range map[string]int{"/metrics": 200, "/healthz": 404, "/readyz": 404, "/status": 404} {
		if code, _, _ := ask(s, "GET", path); code != want {
			t.Errorf("%s: %d, want %d", path, code, want)
		}
	}
}

func TestUnhealthy(t *testing.T) {
	s := newServer()
	s.Healthy = func() error { return errors.New("the pass is stuck") }
	s.Latest.Publish(example())
	if code, _, body := ask(s, "GET", "/healthz"); code != 503 || !strings.Contains(body, "the pass is stuck") {
		t.Errorf("healthz is %d %q", code, body)
	}
	if code, _, _ := ask(s, "GET", "/readyz"); code != 200 {
		t.Errorf("readyz is %d", code)
	}
}

// readyz names what concerns our own node, a line each, and nothing of peers.
func TestNotReady(t *testing.T) {
	s := newServer()
	if code, _, body := ask(s, "GET", "/readyz"); code != 503 || !strings.Contains(body, "no pass has run") {
		t.Errorf("before the first pass readyz is %d %q", code, body)
	}
	s.Latest.Publish(&Result{Problems: []problem.Problem{
		{Subject: problem.Node("node1"), Reason: problem.PodCIDRMissing, Message: "no podCIDR yet", BlocksReady: true},
		{Reason: problem.CNIFailed, Message: "read-only file system", BlocksReady: true},
		{Subject: problem.Node("node2"), Reason: problem.OffLink, Message: "behind a gateway"},
	}})
	code, _, body := ask(s, "GET", "/readyz")
	want := "node node1: PodCIDRMissing: no podCIDR yet\nCNIFailed: read-only file system\n"
	if code != 503 || body != want {
		t.Errorf("readyz is %d %q, want 503 %q", code, body, want)
	}
	if code, _, body := ask(s, "GET", "/status"); code != 200 || !strings.Contains(body, "behind a gateway") {
		t.Errorf("status is %d %q", code, body)
	}
}

// A cached report is dropped with its Result.
func TestStatusIsOfTheLastResult(t *testing.T) {
	s := newServer()
	for _, node := range []string{"", "node1", "node2", "node2"} {
		if node != "" {
			s.Latest.Publish(&Result{Node: node})
		}
		for range 2 {
			var got Report
			_, _, body := ask(s, "GET", "/status")
			if err := json.Unmarshal([]byte(body), &got); err != nil || got.Node != node {
				t.Errorf("status is of %q, %v, want %q", got.Node, err, node)
			}
		}
	}
}

// In a large cluster a report is megabytes: many who ask share one.
func TestReportIsMadeOnce(t *testing.T) {
	s := newServer()
	s.Latest.Publish(large())
	if n := allocations(20, func() { _, _ = s.report(false) }); n > 10 {
		t.Errorf("each request costs %v allocations", n)
	}
}

// allocations is how many a call makes at least, of five tries: what others make meanwhile counts
// as well.
func allocations(runs int, do func()) float64 {
	least := testing.AllocsPerRun(runs, do)
	for range 4 {
		least = min(least, testing.AllocsPerRun(runs, do))
	}
	return least
}

// longer is more than any answer takes on a machine under load.
const longer = time.Minute

// withLongTimeouts returns our server with timeouts longer than those of its clients.
func withLongTimeouts(s *Server) *http.Server {
	server := s.HTTP()
	server.ReadHeaderTimeout, server.ReadTimeout, server.WriteTimeout = 2*longer, 2*longer, 2*longer
	return server
}

// Clients that don't send, or don't read, don't block others.
func TestSlowClientsBlockNoOthers(t *testing.T) {
	s := newServer()
	s.Latest.Publish(large())
	addr := serve(t, withLongTimeouts(s))
	for i := range 200 {
		c := dial(t, addr)
		switch i % 3 {
		case 0:
			fmt.Fprint(c, "GET /status HTTP/1.1\r\nHost: localhost\r\n\r\n") // and never reads
		case 1:
			fmt.Fprint(c, "GET /status HTTP/1.1\r\nHost:") // and never ends
		}
	}
	client := &http.Client{Timeout: longer}
	for _, path := range []string{"/healthz", "/readyz", "/metrics", "/status"} {
		answer, err := client.Get("http://" + addr + path)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(answer.Body)
		if answer.Body.Close(); err != nil || answer.StatusCode != http.StatusOK {
			t.Errorf("%s: %d, %v", path, answer.StatusCode, err)
		}
		if path == "/status" && !json.Valid(body) {
			t.Error("the report is cut short")
		}
	}
}

// A client that does not end its request is hung up on.
func TestHalfRequestsEnd(t *testing.T) {
	server := newServer().HTTP()
	if server.ReadHeaderTimeout <= 0 || server.ReadTimeout <= 0 || server.WriteTimeout <= 0 || server.IdleTimeout <= 0 || server.MaxHeaderBytes <= 0 {
		t.Errorf("without limits: %+v", server)
	}
	server.ReadHeaderTimeout = 100 * time.Millisecond
	c := dial(t, serve(t, server))
	fmt.Fprint(c, "GET /status HTTP/1.1\r\nHost:")
	_ = c.SetReadDeadline(time.Now().Add(longer))
	if _, err := io.ReadAll(c); err != nil {
		t.Errorf("the connection is still there: %v", err)
	}
}

func TestLargeHeaderIsRefused(t *testing.T) {
	c := dial(t, serve(t, newServer().HTTP()))
	go func() { // the server may hang up before all is sent
		_, _ = fmt.Fprintf(c, "GET /status HTTP/1.1\r\nHost: x\r\nA: %s\r\n\r\n", strings.Repeat("a", 1<<20))
	}()
	_ = c.SetReadDeadline(time.Now().Add(longer))
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil || !strings.Contains(line, "431") {
		t.Errorf("a header of 1 MiB is answered by %q, %v", line, err)
	}
}

func serve(t *testing.T, server *http.Server) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(Bounded(listener)) }()
	t.Cleanup(func() {
		server.Close()
		if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	return listener.Addr().String()
}

func dial(t *testing.T, addr string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// large is the Result of a cluster whose report is larger than what sockets hold.
func large() *Result {
	r := &Result{Ready: true}
	for i := range 20000 {
		subnet := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24)
		r.Nodes = append(r.Nodes, &topology.Node{Name: fmt.Sprintf("node%d", i), PodCIDRs: []netip.Prefix{subnet}})
	}
	return r
}

// A client that accepts gzip gets the same report compressed.
func TestStatusIsPacked(t *testing.T) {
	s := &Server{Latest: &Latest{}, Metrics: prometheus.NewRegistry(), Status: true}
	s.Latest.Publish(&Result{Node: "node1", Ready: true})
	answer := func(encoding string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		r := httptest.NewRequest(http.MethodGet, "/status?brief=true", http.NoBody)
		r.Header.Set("Accept-Encoding", encoding)
		s.HTTP().Handler.ServeHTTP(w, r)
		return w
	}
	plain, packed := answer("identity"), answer("gzip, br")
	if got := packed.Header().Get("Content-Encoding"); got != "gzip" || plain.Header().Get("Content-Encoding") != "" {
		t.Fatalf("Content-Encoding is %q, and %q where nobody asked for any", got, plain.Header().Get("Content-Encoding"))
	}
	unpacked, err := gzip.NewReader(packed.Body)
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(unpacked)
	if err != nil || string(got) != plain.Body.String() || len(got) == 0 {
		t.Errorf("got %q and %v, want %q", got, err, plain.Body)
	}
}
