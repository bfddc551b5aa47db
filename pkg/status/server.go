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

// Server answers probes, Prometheus and people. It has no secrets to tell.
type Server struct {
	Board   *Board
	Healthy func() error
	Metrics prometheus.Gatherer
	// Status says whether /healthz, /readyz and /status are served too.
	Status bool
	// Look has /status tell what the kernel holds when it is asked; nil: it doesn't.
	Look Look
	// API tells how well the Nodes are known when /status is asked; nil: as well as at
	// the last pass.
	API func() API
	// Page shows browsers a page in place of the JSON of /status; nil: they get the JSON.
	Page func(json http.HandlerFunc) http.HandlerFunc

	mu     sync.Mutex
	sheets map[bool]sheet // by whether they are brief
}

// A sheet is a report as it is sent.
type sheet struct {
	of   *Result
	body []byte
	// etag names all that it says but the times at which that was so, and heard is the
	// one of them that does not go without saying.
	etag  string
	heard time.Time
}

// fresh is for how long a report serves all who ask.
const fresh = time.Second

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
		Handler:           mux,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
	}
}

func (s *Server) healthz(w http.ResponseWriter, _ *http.Request) {
	if err := s.Healthy(); err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "ok")
}

// readyz says what keeps this node from being ready, a line each; with ?verbose all
// that it depends on.
func (s *Server) readyz(w http.ResponseWriter, r *http.Request) {
	last := s.Board.Last()
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

// heardHeader dates the API server's last event, for clients that have the rest of the report.
const heardHeader = "Plainroute-Heard"

// status sends the report indented and whole. ?brief=true leaves out the desired State and the indentation, which are
// most of it among thousands of peers.
func (s *Server) status(w http.ResponseWriter, r *http.Request) {
	made, err := s.report(r.URL.Query().Get("brief") == "true")
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	if !made.heard.IsZero() {
		w.Header().Set(heardHeader, made.heard.Format(time.RFC3339Nano))
	}
	if !NotModified(w, r, made.etag) {
		SendJSON(w, r, made.body)
	}
}

// etag names a report by what it depends on. It is a weak one (RFC 9110, 8.8.1): times
// are left out, and the report is sent in more than one form.
func etag(r *Report) string {
	seen := struct {
		Node, Version string
		Ready         bool
		Pass          Pass
		API           API
		Drift         Drift
	}{r.Node, r.Version, r.Ready, r.Pass, r.API, r.Drift}
	seen.API.Heard, seen.Drift.Time = time.Time{}, time.Time{}
	text, _ := json.Marshal(seen) // there is nothing in it that has no JSON
	return fmt.Sprintf(`W/"%x"`, sha256.Sum256(text))
}

// report gives the last Result as JSON. In a large cluster that is megabytes, and the
// kernel tells as much: it is made once a Result and second at most, however many ask,
// sent without the lock, and forgotten when it is old.
func (s *Server) report(brief bool) (sheet, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if made, ok := s.sheets[brief]; ok && made.of == s.Board.Last() {
		return made, nil
	}
	last, report := s.now()
	if brief {
		report.State = topology.State{CNI: report.State.CNI}
	}
	body, err := encode(&report, brief)
	if err != nil {
		return sheet{}, fmt.Errorf("encoding the report: %w", err)
	}
	if s.sheets == nil {
		s.sheets = map[bool]sheet{}
	}
	made := sheet{last, body, etag(&report), report.API.Heard}
	s.sheets[brief] = made
	time.AfterFunc(fresh, func() { s.forget(brief, body) })
	return made, nil
}

// encode is for eyes unless it is brief.
func encode(r *Report, brief bool) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	if !brief {
		e.SetIndent("", "  ")
	}
	err := e.Encode(r)
	return b.Bytes(), err
}

// now makes a report of the last Result and of what can be seen at this moment.
func (s *Server) now() (*Result, Report) {
	last, drift, changes := s.Board.Last(), Drift{Differences: []problem.Problem{}}, plan.Changes(nil)
	if s.Look != nil {
		last, drift, changes = look(s.Board, s.Look)
	}
	report := last.Report()
	report.Drift = drift
	lose(report.Peers, changes)
	if s.API != nil {
		report.API = s.API()
	}
	return last, report
}

// forget drops a report, unless there is another by now.
func (s *Server) forget(brief bool, body []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if made := s.sheets[brief].body; len(made) > 0 && &made[0] == &body[0] {
		delete(s.sheets, brief)
	}
}
