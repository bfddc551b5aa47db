package web

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestWantsHTML(t *testing.T) {
	const chromium = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"
	for _, c := range []struct {
		accept, query string
		want          bool
	}{
		{"", "", false},
		{"*/*", "", false}, // curl
		{chromium, "", true},
		{"application/json", "", false},
		{"application/json, text/html;q=0.5", "", false},
		{"text/html;q=0.5, application/json;q=0.4", "", true},
		{"TEXT/HTML", "", true},
		{"text/html;level=1;q=0.3", "", true},
		{"text/html;q=0", "", false},
		{"text/html;q=nonsense", "", true},
		{"application/json, text/plain, */*", "", false},
		{chromium, "?format=json", false},
		{"*/*", "?format=html", true},
		{chromium, "?format=other", true},
	} {
		r := httptest.NewRequest(http.MethodGet, "/status"+c.query, http.NoBody)
		r.Header.Set("Accept", c.accept)
		if got := wantsHTML(r); got != c.want {
			t.Errorf("Accept %q and %q: %v, want %v", c.accept, c.query, got, c.want)
		}
	}
}

// On loopback, other sites' names are not answered: they may have been given our address a moment
// ago.
func TestGuarded(t *testing.T) {
	s := httptest.NewServer(guarded(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "a secret") }))
	defer s.Close()
	for _, c := range []struct {
		host, site, mode string
		want             int
	}{
		{"127.0.0.1:9472", "", "", 200},
		{"127.0.0.1", "", "", 200},
		{"localhost:1234", "same-origin", "cors", 200},
		{"LOCALHOST.:1234", "none", "navigate", 200},
		{"[::1]:9472", "", "", 200},
		{"192.168.1.11:9472", "", "", 200},
		{"plainroute.localhost", "", "", 200},
		{"evil.example", "", "", 403},
		{"evil.example:9472", "same-origin", "cors", 403},
		{"localhost.evil.example", "", "", 403},
		{"127.0.0.1.evil.example", "", "", 403},
		{"localhost", "cross-site", "no-cors", 403},
		{"localhost", "cross-site", "navigate", 200},
		{"localhost", "same-site", "cors", 403},
	} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		r.Host = c.host
		r.Header.Set("Sec-Fetch-Site", c.site)
		r.Header.Set("Sec-Fetch-Mode", c.mode)
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(answer.Body)
		answer.Body.Close()
		if err != nil || answer.StatusCode != c.want || strings.Contains(string(body), "secret") != (c.want == 200) {
			t.Errorf("Host %s, Sec-Fetch-Site %s: %d %q %v, want %d", c.host, c.site, answer.StatusCode, body, err, c.want)
		}
		if answer.Header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("Host %s: %v", c.host, answer.Header)
		}
	}
}

// A listener on another address than loopback has names of its own.
func TestNamesElsewhere(t *testing.T) {
	w := httptest.NewRecorder()
	r := httptest.NewRequest(http.MethodGet, "http://node1.example/status", http.NoBody)
	if guarded(func(http.ResponseWriter, *http.Request) {})(w, r); w.Code != http.StatusOK {
		t.Errorf("it answers %d", w.Code)
	}
}
