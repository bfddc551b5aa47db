package status

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/plainroute/plainroute/pkg/plan"
	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/text"
	"github.com/plainroute/plainroute/pkg/topology"
)

// Server serves probes, metrics and reports. They contain no secrets.
type Server struct {
	Latest  *Latest
	Healthy func() error
	Metrics prometheus.Gatherer
	// Status enables /healthz, /readyz and /status.
	Status bool
	// Observe reads the kernel for /status; nil: /status has no drift.
	Observe Observe
	// API returns the present state of the watch of Nodes for /status; nil: that of the last pass
	// is used.
	API func() API
	// Page serves browsers a page in place of the JSON of /status; nil: they get the JSON.
	Page func(json http.HandlerFunc) http.HandlerFunc

	mu    sync.Mutex
	cache map[bool]*rendered // by brief
}

// rendered is an encoded report.
type rendered struct {
	of        *Result
	body      []byte
	etag      string    // of the content without the times at which it was read
	lastEvent time.Time // the one of these times that a client can't infer
}

// cacheTime is how long a rendered report is served.
const cacheTime = time.Second

// HTTP returns a server that slow or malformed clients can't exhaust.
func (s *Server) HTTP() *http.Server {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.Metrics, promhttp.HandlerOpts{MaxRequestsInFlight: 4}))
	if s.Status {
		mux.HandleFunc("GET /healthz", s.healthz)
		mux.HandleFunc("GET /readyz", s.readyz)
		report := http.HandlerFunc(s.status)
		if s.Page != nil {
			report = s.Page(report)
		}
		mux.Handle("GET /status", report)
	}
	return &http.Server{
		Handler: mux, MaxHeaderBytes: 16 << 10, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second,
		WriteTimeout: 30 * time.Second, IdleTimeout: time.Minute,
	}
}

func (s *Server) healthz(w http.ResponseWriter, _ *http.Request) {
	if err := s.Healthy(); err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "ok")
}

// readyz lists the problems that keep this node from being ready, one a line; with ?verbose all
// conditions.
func (s *Server) readyz(w http.ResponseWriter, r *http.Request) {
	last := s.Latest.Last()
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	if !last.Ready {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	switch {
	case r.URL.Query().Has("verbose"):
		writeConditions(w, last.Conditions(), last.Ready)
	case last.Ready:
		fmt.Fprintln(w, "ok")
	default:
		for _, p := range last.Blocking() {
			fmt.Fprintln(w, text.Printable(p.String()))
		}
	}
}

// lastEventHeader has the time of the API server's last event, for clients that get 304.
const lastEventHeader = "Plainroute-Last-Event"

// status sends the report. ?brief=true leaves out the desired State and the indentation, which are
// most of it among thousands of peers.
func (s *Server) status(w http.ResponseWriter, r *http.Request) {
	made, err := s.report(r.URL.Query().Get("brief") == "true")
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	if !made.lastEvent.IsZero() {
		w.Header().Set(lastEventHeader, made.lastEvent.Format(time.RFC3339Nano))
	}
	if !NotModified(w, r, made.etag) {
		SendJSON(w, r, made.body)
	}
}

// etag returns a weak ETag (RFC 9110, 8.8.1), because times are left out, and the report is sent in
// several forms.
func etag(r *Report) string {
	content := struct {
		Node, Version string
		Ready         bool
		Pass          Pass
		API           API
		Drift         Drift
	}{r.Node, r.Version, r.Ready, r.Pass, r.API, r.Drift}
	content.API.LastEvent, content.Drift.Time = time.Time{}, time.Time{}
	text, _ := json.Marshal(content) // all of its types can be encoded
	return fmt.Sprintf(`W/"%x"`, sha256.Sum256(text))
}

// report returns the last Result as JSON. In a large cluster this takes megabytes and a read of as
// many routes, so it is rendered at most once per Result and second, sent without the lock, and
// dropped when it is old.
func (s *Server) report(brief bool) (*rendered, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if made, ok := s.cache[brief]; ok && made.of == s.Latest.Last() {
		return made, nil
	}
	last, report := s.now()
	if brief {
		report.State = topology.State{CNI: report.State.CNI, Tunnels: report.State.Tunnels, RouteTable: report.State.RouteTable}
	}
	var body bytes.Buffer
	encoder := json.NewEncoder(&body)
	if !brief {
		encoder.SetIndent("", "  ")
	}
	if err := encoder.Encode(&report); err != nil {
		return nil, fmt.Errorf("encoding the report: %w", err)
	}
	if s.cache == nil {
		s.cache = map[bool]*rendered{}
	}
	made := &rendered{last, body.Bytes(), etag(&report), report.API.LastEvent}
	s.cache[brief] = made
	time.AfterFunc(cacheTime, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.cache[brief] == made {
			delete(s.cache, brief)
		}
	})
	return made, nil
}

// now returns a report of the last Result with the present drift.
func (s *Server) now() (*Result, Report) {
	last, drift, changes := s.Latest.Last(), Drift{Differences: []problem.Problem{}}, plan.Changes(nil)
	if s.Observe != nil {
		last, drift, changes = observe(s.Latest, s.Observe)
	}
	report := last.Report()
	report.Drift = drift
	markMissing(report.Peers, changes)
	if s.API != nil {
		report.API = s.API()
	}
	return last, report
}
