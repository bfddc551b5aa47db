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

// A client that has the report gets 304, and the time of the last event.
func TestStatusIsSentOnce(t *testing.T) {
	s := newServer()
	result := *example()
	s.Latest.Publish(&result)
	lastEvent := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	s.API = func() API { return API{Synced: true, LastEvent: lastEvent} }
	kernel := result.Desired
	s.Observe = func() (topology.State, error) { return kernel, nil }
	known := ""
	again := func(what string, want int) {
		t.Helper()
		s.cache = nil // a second has passed
		w := askWith(s, "/status?brief=true", "If-None-Match", known)
		if w.Code != want || (w.Body.Len() == 0) != (want == http.StatusNotModified) {
			t.Errorf("%s: %d and %d bytes, want %d", what, w.Code, w.Body.Len(), want)
		}
		if got := w.Header().Get(lastEventHeader); got != lastEvent.Format(time.RFC3339Nano) {
			t.Errorf("%s: the last event was at %q, want %s", what, got, lastEvent)
		}
		if known = w.Header().Get("ETag"); !strings.HasPrefix(known, `W/"`) {
			t.Errorf("%s: the ETag is %q", what, known)
		}
	}
	again("at first", 200)
	again("as before", 304)
	lastEvent = lastEvent.Add(time.Minute)
	again("after an event", 304)
	s.API = func() API { return API{Synced: true, LastEvent: lastEvent, Error: "connection refused"} }
	again("the API server is away", 200)
	again("it is still away", 304)
	next := result
	next.Pass.Number++
	s.Latest.Publish(&next)
	again("after another pass", 200)
	next.Known = true
	kernel.Routes = nil
	again("without routes", 200)
	again("still without routes", 304)
}
