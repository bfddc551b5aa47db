package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync/atomic"

	"github.com/traefik/traefik/v3/pkg/config/dynamic"
	"github.com/traefik/traefik/v3/pkg/middlewares/requestdecorator"
	muxer "github.com/traefik/traefik/v3/pkg/muxer/http"
)

// front answers requests by the newest configuration.
type front struct {
	parser  muxer.SyntaxParser
	current atomic.Pointer[http.Handler]
}

func newFront() (*front, error) {
	parser, err := muxer.NewSyntaxParser()
	if err != nil {
		return nil, fmt.Errorf("making the parser of rules: %w", err)
	}
	return &front{parser: parser}, nil
}

// follow takes up each configuration that comes, until ctx is done.
func (f *front) follow(ctx context.Context, news <-chan dynamic.Message) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case message := <-news:
			handler := f.handler(message.Configuration.HTTP)
			f.current.Store(&handler)
		}
	}
}

// handler answers by a configuration. A rule that can't be read leaves out its router, not the others.
func (f *front) handler(conf *dynamic.HTTPConfiguration) http.Handler {
	mux := muxer.NewMuxer(f.parser, nil)
	for name, router := range conf.Routers {
		service, ok := conf.Services[router.Service]
		if !ok || service.LoadBalancer == nil {
			continue
		}
		priority := router.Priority
		if priority == 0 {
			priority = muxer.GetRulePriority(router.Rule)
		}
		if err := mux.AddRoute(router.Rule, "v3", priority, "", backends(service.LoadBalancer.Servers)); err != nil {
			slog.Error("adding a router", "router", name, "error", err)
		}
	}
	slog.Info("configured", "routers", len(conf.Routers), "services", len(conf.Services))
	// Rules on hosts look for the host where the decorator puts it.
	decorator := requestdecorator.New(nil)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		decorator.ServeHTTP(w, r, mux.ServeHTTP)
	})
}

func (f *front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	current := f.current.Load()
	if current == nil {
		http.Error(w, "the cluster is not read yet", http.StatusServiceUnavailable)
		return
	}
	(*current).ServeHTTP(w, r)
}

// ready answers 200 once there is a configuration.
func (f *front) ready(w http.ResponseWriter, _ *http.Request) {
	if f.current.Load() == nil {
		http.Error(w, "the cluster is not read yet", http.StatusServiceUnavailable)
		return
	}
	w.WriteHeader(http.StatusOK)
}

// backends passes requests on to the servers by turns. Those that are about to end get none.
func backends(servers []dynamic.Server) http.Handler {
	var targets []*url.URL
	for _, server := range servers {
		target, err := url.Parse(server.URL)
		if err != nil || server.Fenced {
			continue
		}
		targets = append(targets, target)
	}
	if len(targets) == 0 {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "no endpoints", http.StatusServiceUnavailable)
		})
	}
	var turn atomic.Uint64
	return &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(targets[turn.Add(1)%uint64(len(targets))])
		r.Out.Host = r.In.Host
		r.SetXForwarded()
	}}
}
