package web

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/plainroute/plainroute/pkg/status"
)

// A browser gets a page, and programs get JSON from the same address.
func TestStatusForBrowsers(t *testing.T) {
	s := &status.Server{Latest: &status.Latest{}, Metrics: prometheus.NewRegistry(), Status: true, Page: NodePage}
	for _, c := range []struct{ path, accept, kind string }{
		{"/status", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", "text/html; charset=utf-8"},
		{"/status", "*/*", "application/json"},
		{"/status", "", "application/json"},
		{"/status?format=json&brief=true", "text/html", "application/json"},
		{"/status?format=html", "*/*", "text/html; charset=utf-8"},
	} {
		w := httptest.NewRecorder()
		r := httptest.NewRequest(http.MethodGet, c.path, http.NoBody)
		r.Header.Set("Accept", c.accept)
		s.HTTP().Handler.ServeHTTP(w, r)
		h := w.Header()
		if h.Get("Content-Type") != c.kind || h.Get("Vary") != "Accept, Accept-Encoding" || h.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s with Accept %q: %v, want %s", c.path, c.accept, h, c.kind)
		}
	}
}
