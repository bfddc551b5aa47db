package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os/exec"
	"runtime"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/plainroute/plainroute/pkg/fleet"
	"github.com/plainroute/plainroute/pkg/status"
	"github.com/plainroute/plainroute/pkg/web"
)

type dashboardFlags struct {
	clusterFlags
	web.Dashboard
	port int
	open bool
}

func dashboardCommand() *cobra.Command {
	f := &dashboardFlags{}
	cmd := &cobra.Command{
		Use:   "dashboard",
		Short: "Show the whole cluster in a browser, from this machine",
		Long: `dashboard serves a web page on this machine: the problems and their remediation,
the routes between nodes, and each node. While a browser shows the page, dashboard
queries all agents every --interval, as status --cluster does and with the same
rights. It changes nothing, and listens on 127.0.0.1 only. Ctrl-C ends it.

Exit codes: 0 interrupted; 2 wrong flags or arguments; 4 there is no kubeconfig,
or the port is taken.`,
		Annotations: map[string]string{readOnly: ""},
		Example: `  # On a free port, which it prints
  plainroute dashboard

  # On a given port, and opened in a browser
  plainroute dashboard --port 8080 --open`,
		RunE: f.run,
	}
	fs := cmd.Flags()
	f.register(fs)
	fs.IntVar(&f.port, "port", 0, "port on 127.0.0.1 (default: a free one)")
	fs.DurationVar(&f.Interval, "interval", 5*time.Second, "time between two queries of all agents")
	fs.BoolVar(&f.open, "open", false, "open the page in a browser")
	return cmd
}

func (f *dashboardFlags) run(cmd *cobra.Command, _ []string) error {
	errs := append(f.check(), inRange("port", f.port, 0, 65535), atLeast("interval", f.Interval, time.Second))
	if err := invalidFlags(errs...); err != nil {
		return err
	}
	config, client, err := f.connect()
	if err != nil {
		return err
	}
	forward := &fleet.Forward{Config: config, Client: client}
	f.Get, f.Timeout = forward.Get, f.timeout
	f.Collect = func(ctx context.Context, progress func(done, all int)) (*fleet.Cluster, error) {
		s := f.collector(client, progress)
		s.Get = f.Get
		cluster, err := s.Collect(ctx)
		return cluster, f.hinted(err)
	}
	return f.serve(cmd)
}

// serve serves until the context ends, which is not an error.
func (f *dashboardFlags) serve(cmd *cobra.Command) error {
	ctx, cancel := context.WithCancel(cmd.Context())
	defer cancel()
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(f.port)))
	if err != nil {
		return fmt.Errorf("listening for browsers: %w", err)
	}
	server := &http.Server{Handler: f.Handler(), ReadHeaderTimeout: 5 * time.Second, WriteTimeout: time.Minute, IdleTimeout: time.Minute}
	go f.Run(ctx)
	url := "http://" + listener.Addr().String() + "/"
	fmt.Fprintf(cmd.OutOrStdout(), "%s (Ctrl-C ends it)\n", url)
	if f.open {
		if err := open(ctx, url); err != nil {
			fmt.Fprintf(cmd.ErrOrStderr(), "opening a browser: %v\n", err)
		}
	}
	context.AfterFunc(ctx, func() { _ = server.Close() }) // without waiting for requests in progress
	if err := server.Serve(status.Bounded(listener)); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving browsers: %w", err)
	}
	return nil
}

// open opens a page in the desktop's browser.
func open(ctx context.Context, url string) error {
	name := "xdg-open"
	if runtime.GOOS == "darwin" {
		name = "open"
	}
	return exec.CommandContext(ctx, name, url).Start()
}
