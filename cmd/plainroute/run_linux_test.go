package main

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/plainroute/plainroute/controllers"
	"github.com/plainroute/plainroute/pkg/kube"
	"github.com/plainroute/plainroute/pkg/nodes"
	"github.com/plainroute/plainroute/test/apiserver"
	"github.com/plainroute/plainroute/test/testutil"
)

// untilEnd is a task that ends with its context.
func untilEnd(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// The agent ends if a part of it fails, or with its context. A part that goes on delays the end, up to a bound.
func TestRunEnds(t *testing.T) {
	failure := errors.New("a failure")
	fails := func(context.Context) error { return failure }
	hangs := func(context.Context) error { time.Sleep(time.Hour); return nil }
	for name, c := range map[string]struct {
		tasks []task
		after time.Duration // how long it takes, of which the first second is before the end of the context
		want  string
	}{
		"the context ends":           {[]task{untilEnd, untilEnd}, time.Second, ""},
		"a part fails":               {[]task{untilEnd, fails}, 0, "a failure"},
		"a part goes on":             {[]task{untilEnd, hangs}, time.Second + endTimeout, "still runs after 4s"},
		"one fails, another goes on": {[]task{hangs, fails}, endTimeout, "ending the agent (a failure): "},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				begin := time.Now()
				err := run(ctx, c.tasks...)
				if took := time.Since(begin); took != c.after || (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
					t.Errorf("after %s: %v; want after %s: %q", took, err, c.after, c.want)
				}
				time.Sleep(time.Hour) // until the bubble is empty
			})
		})
	}
}

// A server answers requests in progress at its end, and no later ones.
func TestServeEnds(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	testutil.Must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		cancel()
		time.Sleep(50 * time.Millisecond)
		_, _ = io.WriteString(w, "answered")
	})}
	ended := make(chan error, 1)
	go func() { ended <- serve(ctx, server, listener) }()
	response, err := http.Get("http://" + listener.Addr().String())
	testutil.Must(t, err)
	defer response.Body.Close()
	if body, err := io.ReadAll(response.Body); err != nil || string(body) != "answered" {
		t.Errorf("a request in progress gets %q, %v", body, err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if conn, err := net.Dial("tcp", listener.Addr().String()); err == nil {
		_ = conn.Close()
		t.Error("the server still accepts connections")
	}
}

// Each address has a server, and one address has one. An address that is taken is an error at once.
func TestServers(t *testing.T) {
	source, err := nodes.New(apiserver.NewFake(t).Config, nil)
	testutil.Must(t, err)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	testutil.Must(t, err)
	defer taken.Close()
	for _, c := range []struct {
		listen, metrics, pprof string
		want                   int
	}{
		{"127.0.0.1:0", "", "", 1},
		{"127.0.0.1:0", "127.0.0.1:0", "", 1},
		{"127.0.0.1:0", "localhost:0", "", 2},
		{"127.0.0.1:0", "localhost:0", "127.0.0.1:0", 3},
		{"127.0.0.1:0", "", taken.Addr().String(), 0},
	} {
		f := &agentFlags{metricsListen: c.metrics, pprofListen: c.pprof}
		f.listen = c.listen
		tasks, err := f.servers(t.Context(), &controllers.NodeReconciler{}, source, prometheus.NewRegistry())
		if len(tasks) != c.want || (err == nil) != (c.want > 0) {
			t.Errorf("%+v: %d servers, %v", c, len(tasks), err)
		}
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		testutil.Must(t, run(ended, tasks...)) // which closes the listeners
	}
}

// Go's profiles are below /debug/pprof/, and nothing else is served.
func TestProfiles(t *testing.T) {
	for path, want := range map[string]int{
		"/debug/pprof/": 200, "/debug/pprof/heap": 200, "/debug/pprof/cmdline": 200, "/debug/pprof/symbol": 200,
		"/debug/pprof/profile?seconds=1": 200, "/debug/pprof/trace?seconds=0.1": 200, "/debug/pprof/no-profile": 404, "/": 404, "/metrics": 404,
	} {
		w := httptest.NewRecorder()
		profiles().Handler.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, http.NoBody))
		if w.Code != want || want == 200 && w.Body.Len() == 0 {
			t.Errorf("%s: %d with %d bytes, want %d", path, w.Code, w.Body.Len(), want)
		}
	}
}

// A listener that fails is an error.
func TestServeFails(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	testutil.Must(t, err)
	testutil.Must(t, listener.Close())
	if err := serve(t.Context(), &http.Server{}, listener); !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v", err)
	}
}

// The registry has what Go, the process and client-go count.
func TestRegistry(t *testing.T) {
	registry := newRegistry()
	client, err := kube.New(apiserver.NewFake(t).Config)
	testutil.Must(t, err)
	_, err = client.Nodes().List(t.Context(), metav1.ListOptions{})
	testutil.Must(t, err)
	families, err := registry.Gather()
	testutil.Must(t, err)
	found := map[string]float64{}
	for _, f := range families {
		found[f.GetName()] = f.GetMetric()[0].GetCounter().GetValue()
	}
	for _, want := range []string{"go_goroutines", "go_sched_latencies_seconds", "process_resident_memory_bytes", "rest_client_requests_total"} {
		if _, there := found[want]; !there {
			t.Errorf("there is no %s", want)
		}
	}
	if got := found["rest_client_requests_total"]; got != 1 {
		t.Errorf("one request is counted as %v", got)
	}
}
