package status

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/plainroute/plainroute/pkg/topology"
)

func askWith(s *Server, path string, headers ...string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	r := httptest.NewRequest(http.MethodGet, path, http.NoBody)
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	s.HTTP().Handler.ServeHTTP(w, r)
	return w
}

// A browser gets a page, and programs get JSON from the same address.
func TestStatusForBrowsers(t *testing.T) {
	s := newServer()
	s.Board.Publish(example())
	for _, c := range []struct{ path, accept, kind string }{
		{"/status", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", "text/html; charset=utf-8"},
		{"/status", "*/*", "application/json"},
		{"/status", "", "application/json"},
		{"/status?format=json&brief=true", "text/html", "application/json"},
		{"/status?format=html", "*/*", "text/html; charset=utf-8"},
	} {
		h := askWith(s, c.path, "Accept", c.accept).Header()
		if h.Get("Content-Type") != c.kind || h.Get("Vary") != "Accept, Accept-Encoding" || h.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s with Accept %q: %v, want %s", c.path, c.accept, h, c.kind)
		}
	}
}

// Who has what is new gets nothing but when that was so.
func TestStatusIsSentOnce(t *testing.T) {
	s := newServer()
	result := *example()
	s.Board.Publish(&result)
	heard := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	s.API = func() API { return API{Synced: true, Heard: heard} }
	kernel := result.Desired
	s.Look = func() (topology.State, error) { return kernel, nil }
	known := ""
	again := func(what string, want int) {
		t.Helper()
		s.sheets = nil // a second has passed
		w := askWith(s, "/status?brief=true", "If-None-Match", known)
		if w.Code != want || (w.Body.Len() == 0) != (want == http.StatusNotModified) {
			t.Errorf("%s: %d and %d bytes, want %d", what, w.Code, w.Body.Len(), want)
		}
		if got := w.Header().Get(heardHeader); got != heard.Format(time.RFC3339Nano) {
			t.Errorf("%s: the API server was heard of at %q, want %s", what, got, heard)
		}
		if known = w.Header().Get("ETag"); !strings.HasPrefix(known, `W/"`) {
			t.Errorf("%s: the ETag is %q", what, known)
		}
	}
	again("at first", 200)
	again("as before", 304)
	heard = heard.Add(time.Minute)
	again("something was heard", 304)
	s.API = func() API { return API{Synced: true, Heard: heard, Error: "connection refused"} }
	again("the API server is away", 200)
	again("it is still away", 304)
	next := result
	next.Pass.Number++
	s.Board.Publish(&next)
	again("after another pass", 200)
	next.Known = true
	kernel.Routes = nil
	again("without routes", 200)
	again("still without routes", 304)
}
