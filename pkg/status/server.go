package status

import (
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Server answers probes, Prometheus and people. It has no secrets to tell.
type Server struct {
	Board   *Board
	Healthy func() error
	Metrics prometheus.Gatherer
	// Status says whether /healthz, /readyz and /status are served too.
	Status bool

	mu       sync.Mutex
	reported *Result // that body is of
	body     []byte
}

// HTTP returns a server that slow or malformed clients can't exhaust.
func (s *Server) HTTP() *http.Server {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.Metrics, promhttp.HandlerOpts{MaxRequestsInFlight: 4}))
	if s.Status {
		mux.HandleFunc("GET /healthz", s.healthz)
		mux.HandleFunc("GET /readyz", s.readyz)
		mux.HandleFunc("GET /status", s.status)
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
			fmt.Fprintln(w, p)
		}
	}
}

func (s *Server) status(w http.ResponseWriter, _ *http.Request) {
	body, err := s.report()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	// An error here is the client's going away.
	_, _ = w.Write(body)
}

// report gives the last Result as JSON. In a large cluster that is megabytes: it
// is made once a Result, however many ask, and sent without the lock.
func (s *Server) report() ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	last := s.Board.Last()
	if s.body != nil && last == s.reported {
		return s.body, nil
	}
	body, err := json.MarshalIndent(last.Report(), "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encoding the report: %w", err)
	}
	body = append(body, '\n')
	s.reported, s.body = last, body
	return body, nil
}
