// Command ingress is the Ingress controller of the tests on a real cluster: Traefik's reading of Ingresses, Services and
// EndpointSlices and its matching of requests, in front of the standard library's reverse proxy. Traefik as a whole
// needs modules that a module proxy doesn't always have, and clients of some 180 DNS providers, for certificates.
// It answers HTTP on -address, and /ready on -health once it has read the cluster.
package main

import (
	"context"
	"flag"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/rs/zerolog"
	ptypes "github.com/traefik/paerser/types"
	"github.com/traefik/traefik/v3/pkg/config/dynamic"
	"github.com/traefik/traefik/v3/pkg/provider/kubernetes/ingress"
	"github.com/traefik/traefik/v3/pkg/safe"
	"golang.org/x/sync/errgroup"
)

func main() {
	class := flag.String("class", "", "serve Ingresses of this IngressClass; of every one of Traefik's if empty")
	address := flag.String("address", ":8080", "answer HTTP here")
	health := flag.String("health", ":8081", "answer /ready here")
	flag.Parse()
	zerolog.SetGlobalLevel(zerolog.InfoLevel) // Traefik's: it logs each event at the level below
	if err := serve(*class, *address, *health); err != nil {
		slog.Error("serving Ingresses", "error", err)
		os.Exit(1)
	}
}

// serve answers until a signal ends it.
func serve(class, address, health string) error {
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer cancel()
	front, err := newFront()
	if err != nil {
		return err
	}
	provider := &ingress.Provider{
		IngressClass:         class,
		StrictPrefixMatching: true,
		AllowEmptyServices:   true,
		ThrottleDuration:     ptypes.Duration(100 * time.Millisecond),
	}
	news := make(chan dynamic.Message)
	pool := safe.NewPool(ctx)
	if err := provider.Provide(news, pool); err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return front.follow(ctx, news) })
	group.Go(func() error { return listen(ctx, address, front) })
	group.Go(func() error { return listen(ctx, health, http.HandlerFunc(front.ready)) })
	return group.Wait()
}

// listen serves handler until ctx is done, and then lets requests finish.
func listen(ctx context.Context, address string, handler http.Handler) error {
	server := &http.Server{Addr: address, Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		<-ctx.Done()
		grace, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = server.Shutdown(grace)
	}()
	if err := server.ListenAndServe(); err != http.ErrServerClosed {
		return err
	}
	<-stopped
	return nil
}
