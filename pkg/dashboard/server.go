// Package dashboard shows a whole cluster in a browser: what all agents say, again and again while somebody looks.
package dashboard

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/plainroute/plainroute/pkg/page"
	"github.com/plainroute/plainroute/pkg/status"
	"github.com/plainroute/plainroute/pkg/survey"
)

// Server answers browsers. It only looks.
type Server struct {
	// Survey asks all agents, and says how far it is.
	Survey func(ctx context.Context, progress func(done, all int)) (*survey.Cluster, error)
	// Ask gets one agent's answer to GET of a path.
	Ask func(ctx context.Context, agent *survey.Agent, path string) (io.ReadCloser, error)
	// Every is how long there is between Surveys, Timeout how long one agent may take.
	Every, Timeout time.Duration

	once sync.Once
	wake chan struct{}

	mu      sync.Mutex
	asked   time.Time // when a browser last did
	view    view
	cluster *survey.Cluster
}

// Run surveys while somebody looks, until the context ends. Each Survey is a port-forward to each agent: nobody looks, no
// Survey.
func (s *Server) Run(ctx context.Context) {
	s.prepare()
	for ctx.Err() == nil {
		if s.watched() {
			s.look(ctx)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(s.Every):
		case <-s.wake:
		}
	}
}

func (s *Server) prepare() { s.once.Do(func() { s.wake = make(chan struct{}, 1) }) }

// watched tells whether a browser has asked since it should have at the latest.
func (s *Server) watched() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Since(s.asked) < 3*s.Every+time.Second
}

func (s *Server) look(ctx context.Context) {
	cluster, err := s.Survey(ctx, func(done, all int) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.view.Done, s.view.All = done, all
	})
	if ctx.Err() != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.view.Number++
	if s.view.Error = ""; err != nil {
		s.view.Error = err.Error() // what was seen before stays
		return
	}
	s.cluster = cluster
	s.view.Seen = seenOf(cluster)
}

// Handler answers the page of the cluster at /, and that of each node at /nodes/NAME; and their data as JSON.
func (s *Server) Handler() http.Handler {
	s.prepare()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", page.Guarded(s.all))
	mux.HandleFunc("GET /nodes/{name}", page.Guarded(s.node))
	return mux
}

func (s *Server) all(w http.ResponseWriter, r *http.Request) {
	if page.WantsHTML(r) {
		page.Cluster.ServeHTTP(w, r)
		return
	}
	now := s.now()
	etag := fmt.Sprintf(`W/"%d-%d-%d"`, now.Number, now.Done, now.All)
	w.Header().Set("ETag", etag)
	if page.Unchanged(r, etag) {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	send(w, r, now)
}

// now is what is known, and has Run look again soon if nobody has looked for long.
func (s *Server) now() view {
	s.mu.Lock()
	defer s.mu.Unlock()
	if time.Since(s.asked) > s.Every {
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
	s.asked = time.Now()
	now := s.view
	now.Every = s.Every.Milliseconds()
	return now
}

// node shows what one agent says just now.
func (s *Server) node(w http.ResponseWriter, r *http.Request) {
	if page.WantsHTML(r) {
		page.Node.ServeHTTP(w, r)
		return
	}
	row := s.row(r.PathValue("name"))
	switch {
	case row == nil:
		http.Error(w, "there is no such node, or nobody has looked yet", http.StatusNotFound)
		return
	case row.Agent == nil:
		http.Error(w, status.Printable(row.Detail), http.StatusBadGateway)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), s.Timeout)
	defer cancel()
	report, err := s.report(ctx, row)
	if err != nil {
		http.Error(w, status.Printable(err.Error()), http.StatusBadGateway)
		return
	}
	send(w, r, report)
}

func (s *Server) row(name string) *survey.Row {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cluster == nil {
		return nil
	}
	for i := range s.cluster.Nodes {
		if row := &s.cluster.Nodes[i]; row.Node == name {
			return row
		}
	}
	return nil
}

// maxReport is far more than a report of 5,000 peers takes, which is 3 MiB.
const maxReport = 64 << 20

// report is what a node's agent says. It is read, so that nothing but a report comes through.
func (s *Server) report(ctx context.Context, row *survey.Row) (*status.Report, error) {
	body, err := s.Ask(ctx, row.Agent, "/status?brief=true")
	if err != nil {
		return nil, err
	}
	defer body.Close()
	var report status.Report
	if err := json.NewDecoder(io.LimitReader(body, maxReport)).Decode(&report); err != nil {
		return nil, fmt.Errorf("reading the agent's answer: %w", err)
	}
	if report.Node != row.Node {
		return nil, errors.New("the answer is another node's")
	}
	return &report, nil
}

func send(w http.ResponseWriter, r *http.Request, what any) {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	h.Set("Vary", "Accept, Accept-Encoding")
	out := io.Writer(w)
	if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		h.Set("Content-Encoding", "gzip")
		packed, _ := gzip.NewWriterLevel(w, gzip.BestSpeed) // there is such a level
		defer packed.Close()
		out = packed
	}
	_ = json.NewEncoder(out).Encode(what) // an error is the client's going away
}
