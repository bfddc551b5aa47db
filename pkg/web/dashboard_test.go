package web

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/plainroute/plainroute/pkg/fleet"
	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/status"
)

// two is a cluster of a node that is fine and one without an agent.
func two() *fleet.Cluster {
	return &fleet.Cluster{Nodes: []fleet.Row{
		{
			Node: "node-1", Subnets: []string{"10.244.1.0/24"}, Agent: &fleet.Agent{Pod: "plainroute-1"},
			Report: &status.Report{Node: "node-1", Ready: true, Peers: []status.Peer{{Node: "node-2", State: status.Conflict, Message: "a foreign route"}}},
			Count:  fleet.Count{Peers: 1}, Routes: fleet.Cells{fleet.Self, fleet.Conflict},
		},
		{Node: "node-2", NoReport: problem.NoAgent, Message: "no agent runs here"},
	}}
}

func refreshed(t *testing.T, ask func() (string, error)) *Dashboard {
	t.Helper()
	s := &Dashboard{
		Interval: time.Second, Timeout: time.Second,
		Collect: func(context.Context, func(int, int)) (*fleet.Cluster, error) { return two(), nil },
		Get: func(_ context.Context, agent *fleet.Agent, path string) (io.ReadCloser, error) {
			if agent.Pod != "plainroute-1" || path != "/status?brief=true" {
				t.Errorf("%s of %s is asked for", path, agent.Pod)
			}
			text, err := ask()
			return io.NopCloser(strings.NewReader(text)), err
		},
	}
	s.refresh(t.Context())
	return s
}

func getPath(s *Dashboard, path string, headers ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodGet, path, http.NoBody)
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, r)
	return w
}

func TestHandler(t *testing.T) {
	s := refreshed(t, func() (string, error) { return `{"node":"node-1","version":"v1"}`, nil })
	for _, c := range []struct {
		path, accept string
		code         int
		kind, part   string
	}{
		{"/", "text/html", 200, "text/html; charset=utf-8", "<title>plainroute</title>"},
		{"/", "*/*", 200, "application/json", `"routes":".c"`},
		{"/?format=json", "text/html", 200, "application/json", `"symbol":"c","words":"conflict: a foreign route takes precedence","bad":true`},
		{"/nodes/node-1", "text/html", 200, "text/html; charset=utf-8", "<title>plainroute</title>"},
		{"/nodes/nobody", "text/html", 200, "text/html; charset=utf-8", "<title>plainroute</title>"}, // its script requests the data and shows the error
		{"/nodes/node-1?format=json&brief=true", "", 200, "application/json", `"version":"v1"`},
		{"/nodes/node-2?format=json", "", 502, "text/plain; charset=utf-8", "no agent runs here\n"},
		{"/nodes/nobody?format=json", "", 404, "text/plain; charset=utf-8", "no such node"},
		{"/nodes/", "", 404, "", ""},
		{"/status", "", 404, "", ""},
	} {
		w := getPath(s, c.path, "Accept", c.accept)
		if w.Code != c.code || c.kind != "" && w.Header().Get("Content-Type") != c.kind || !strings.Contains(w.Body.String(), c.part) {
			t.Errorf("%s with Accept %q: %d %s %s, want %d %s and %s", c.path, c.accept, w.Code, w.Header(), w.Body, c.code, c.kind, c.part)
		}
		if c.kind != "" && (w.Header().Get("X-Content-Type-Options") != "nosniff" || w.Header().Get("Access-Control-Allow-Origin") != "") {
			t.Errorf("%s: the headers are %v", c.path, w.Header())
		}
	}
	w := httptest.NewRecorder()
	if s.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/", http.NoBody)); w.Code != http.StatusMethodNotAllowed {
		t.Errorf("POST is answered by %d", w.Code)
	}
	if w := getPath(s, "/?format=json", "Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "cors"); w.Code != http.StatusForbidden {
		t.Errorf("another site is answered by %d", w.Code)
	}
}

// Only the report of the requested node is passed on.
func TestInvalidReports(t *testing.T) {
	for body, part := range map[string]string{
		`{"node":"node-9"}`: "it is that of node node-9",
		`<script>`:          "invalid character",
		``:                  "EOF",
	} {
		s := refreshed(t, func() (string, error) { return body, nil })
		if w := getPath(s, "/nodes/node-1?format=json"); w.Code != http.StatusBadGateway || !strings.Contains(w.Body.String(), part) || w.Header().Get("Content-Type") != "text/plain; charset=utf-8" {
			t.Errorf("%q is answered by %d %v %s, want %s", body, w.Code, w.Header(), w.Body, part)
		}
	}
	s := refreshed(t, func() (string, error) { return "", errors.New("connection\x1b[31m refused") })
	if w := getPath(s, "/nodes/node-1?format=json"); w.Code != http.StatusBadGateway || w.Body.String() != "connection\\u001b[31m refused\n" {
		t.Errorf("an agent that can't be reached is answered by %d %q", w.Code, w.Body)
	}
}

// Unchanged data is not sent again, and the previous status stays if collecting fails.
func TestCollectFails(t *testing.T) {
	s := refreshed(t, nil)
	first := getPath(s, "/?format=json")
	etag := first.Header().Get("ETag")
	if w := getPath(s, "/?format=json", "If-None-Match", etag); w.Code != http.StatusNotModified || w.Body.Len() > 0 {
		t.Errorf("what is known is answered by %d and %d bytes", w.Code, w.Body.Len())
	}
	s.Collect = func(context.Context, func(int, int)) (*fleet.Cluster, error) {
		return nil, errors.New("no route to host")
	}
	s.refresh(t.Context())
	w := getPath(s, "/?format=json", "If-None-Match", etag)
	var got view
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || got.Error != "no route to host" || got.Number != 2 || got.Seen == nil || len(got.Seen.Nodes) != 2 {
		t.Errorf("after collecting failed: %v %s", err, w.Body)
	}
	s.Collect = func(context.Context, func(int, int)) (*fleet.Cluster, error) { return two(), nil }
	s.refresh(t.Context())
	if got := getPath(s, "/?format=json").Body.String(); strings.Contains(got, "no route to host") {
		t.Errorf("the failure is still reported: %s", got)
	}
}

// Agents are queried while a browser requests data, at once when one begins, and otherwise not.
func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls atomic.Int64
		s := &Dashboard{Interval: 5 * time.Second, Collect: func(context.Context, func(int, int)) (*fleet.Cluster, error) {
			calls.Add(1)
			return two(), nil
		}}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			s.Run(ctx)
		}()
		want := func(what string, n int64) {
			t.Helper()
			synctest.Wait()
			if got := calls.Load(); got != n {
				t.Errorf("%s: %d calls, want %d", what, got, n)
			}
		}
		time.Sleep(time.Minute)
		want("no requests", 0)
		getPath(s, "/?format=json")
		want("first request", 1)
		for range 3 {
			time.Sleep(5 * time.Second)
			getPath(s, "/?format=json")
		}
		want("more requests", 4)
		time.Sleep(time.Minute)
		n := calls.Load()
		time.Sleep(10 * time.Minute)
		want("no more requests", n)
		cancel()
		<-ended
	})
}
