//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/tools/metrics"

	"github.com/plainroute/plainroute/controllers"
	"github.com/plainroute/plainroute/pkg/nodes"
	"github.com/plainroute/plainroute/pkg/status"
	"github.com/plainroute/plainroute/pkg/topology"
	"github.com/plainroute/plainroute/pkg/web"
)

// A task is a part of the agent. It runs until ctx ends; if it returns an error, the agent ends.
type task func(ctx context.Context) error

const (
	// endTimeout bounds the end of the agent, so that it saves the Nodes before the kubelet kills it
	// (terminationGracePeriodSeconds of the manifests: 5 s).
	endTimeout = 4 * time.Second
	// answerTimeout is what requests in progress get at the end.
	answerTimeout = 2 * time.Second
)

// run runs tasks until ctx ends, or one returns an error, which it returns.
func run(ctx context.Context, tasks ...task) error {
	all, ctx := errgroup.WithContext(ctx)
	for _, t := range tasks {
		all.Go(func() error { return t(ctx) })
	}
	ended := make(chan error, 1)
	go func() { ended <- all.Wait() }()
	<-ctx.Done()
	select {
	case err := <-ended:
		return err
	case <-time.After(endTimeout):
		return fmt.Errorf("ending the agent (%w): a part of it still runs after %s", context.Cause(ctx), endTimeout)
	}
}

// servers opens the listeners at once, so that a taken port is an error at start.
func (f *agentFlags) servers(ctx context.Context, r *controllers.NodeReconciler, source *nodes.Source, registry prometheus.Gatherer) ([]task, error) {
	probes := &status.Server{
		Latest: r.Latest, Healthy: r.Healthy, Metrics: registry, Status: true, Page: web.NodePage,
		API: func() status.API { return controllers.APIStatus(source.Health()) },
		// without the lock, which only writers need
		Observe: func() (topology.State, error) { return observe(f.hostConfig()) },
	}
	type endpoint struct {
		addr   string // empty: none
		server *http.Server
	}
	endpoints := []endpoint{{f.listen, probes.HTTP()}, {f.pprofListen, profiles()}}
	if f.metricsListen != f.listen {
		endpoints = append(endpoints, endpoint{f.metricsListen, (&status.Server{Metrics: registry}).HTTP()})
	}
	var tasks []task
	for _, e := range endpoints {
		if e.addr == "" {
			continue
		}
		listener, err := new(net.ListenConfig).Listen(ctx, "tcp", e.addr)
		if err != nil {
			return nil, fmt.Errorf("listening for probes, metrics and profiles: %w", err)
		}
		tasks = append(tasks, func(ctx context.Context) error { return serve(ctx, e.server, status.Bounded(listener)) })
	}
	return tasks, nil
}

// serve serves until ctx ends, which is not an error.
func serve(ctx context.Context, server *http.Server, listener net.Listener) error {
	both, ctx := errgroup.WithContext(ctx)
	both.Go(func() error { return server.Serve(listener) })
	both.Go(func() error {
		<-ctx.Done()
		limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), answerTimeout)
		defer cancel()
		_ = server.Shutdown(limited) // the process ends requests that take longer
		return nil
	})
	if err := both.Wait(); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving: %w", err)
	}
	return nil
}

// profiles returns a server of Go's profiles (net/http/pprof), whose answers may take as long as a
// client asks for.
func profiles() *http.Server {
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	return &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute}
}

// newRegistry returns a registry with the metrics of Go, of the process, and of requests to API
// servers.
func newRegistry() *prometheus.Registry {
	requests := requestCounter{prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "rest_client_requests_total", Help: "Requests to API servers, by their answer's code, by method and host.",
	}, []string{"code", "method", "host"})}
	metrics.RequestResult = requests
	registry := prometheus.NewRegistry()
	registry.MustRegister(
		collectors.NewGoCollector(collectors.WithGoCollectorRuntimeMetrics(collectors.MetricsAll)),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), requests,
	)
	return registry
}

// requestCounter counts requests under the name that Kubernetes' own programs give them.
type requestCounter struct{ *prometheus.CounterVec }

// Increment is part of metrics.ResultMetric.
func (c requestCounter) Increment(_ context.Context, code, method, host string) {
	c.WithLabelValues(code, method, host).Inc()
}
