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

// dashboardFlags are the choices of the dashboard command.
type dashboardFlags struct {
	clusterFlags
	port     int
	interval time.Duration
	open     bool
}

func dashboardCommand() *cobra.Command {
	f := &dashboardFlags{}
	cmd := &cobra.Command{
		Use:   "dashboard",
		Short: "Show the whole cluster in a browser, from this machine",
		Long: `dashboard serves a page to a browser on this machine: what is wrong and what to do
about it, who has a route to whom, and each node. While somebody looks at it, it
asks all agents again and again, as status --cluster does and with the same
rights. It changes nothing, and listens on 127.0.0.1 alone. Ctrl-C ends it.

Exit codes: 0 it was ended; 1 there is no kubeconfig, or the port is taken;
2 wrong flags or arguments.`,
		Example: `  # At a free port, which it tells
  plainroute dashboard

  # At a port of your choice, and opened at once
  plainroute dashboard --port 8080 --open`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd) },
	}
	fs := cmd.Flags()
	f.register(fs)
	fs.IntVar(&f.port, "port", 0, "port on 127.0.0.1 (default: a free one)")
	fs.DurationVar(&f.interval, "interval", 5*time.Second, "how long to wait before all agents are asked again")
	fs.BoolVar(&f.open, "open", false, "open it in a browser")
	return cmd
}

func (f *dashboardFlags) faults() []error {
	faults := f.clusterFlags.faults()
	if f.port < 0 || f.port > 65535 {
		faults = append(faults, fmt.Errorf("--port: %d is not between 0 and 65535", f.port))
	}
	if f.interval < time.Second {
		faults = append(faults, fmt.Errorf("--interval: %s is less than 1s", f.interval))
	}
	return faults
}

func (f *dashboardFlags) run(cmd *cobra.Command) error {
	if err := faultsError(f.faults()); err != nil {
		return err
	}
	config, client, err := f.connect()
	if err != nil {
		return err
	}
	forward := &fleet.Forward{Config: config, Client: client}
	d := &web.Dashboard{
		Collect: func(ctx context.Context, progress func(done, all int)) (*fleet.Cluster, error) {
			s := fleet.Collector{
				Client: client, Get: forward.Get, Namespace: f.namespace,
				Parallel: f.parallel, Timeout: f.timeout, Progress: progress,
			}
			cluster, err := s.Collect(ctx)
			return cluster, f.hinted(err)
		},
		Get: forward.Get, Interval: f.interval, Timeout: f.timeout,
	}
	return f.serve(cmd, d)
}

// serve serves until the context ends, which is what is wanted of it.
func (f *dashboardFlags) serve(cmd *cobra.Command, d *web.Dashboard) error {
	ctx, cancel := context.WithCancel(cmd.Context())
	defer cancel()
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(f.port)))
	if err != nil {
		return fmt.Errorf("listening for browsers: %w", err)
	}
	server := &http.Server{Handler: d.Handler(), ReadHeaderTimeout: 5 * time.Second, WriteTimeout: time.Minute, IdleTimeout: time.Minute}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(status.Bounded(listener)) }()
	go d.Run(ctx)
	url := "http://" + listener.Addr().String() + "/"
	fmt.Fprintf(cmd.OutOrStdout(), "%s (Ctrl-C ends it)\n", url)
	if f.open {
		if err := open(ctx, url); err != nil {
			fmt.Fprintf(cmd.ErrOrStderr(), "opening a browser: %v\n", err)
		}
	}
	select {
	case err := <-ended:
		return fmt.Errorf("serving browsers: %w", err)
	case <-ctx.Done():
	}
	_ = server.Close() // what it answers just now, nobody looks at
	if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving browsers: %w", err)
	}
	return nil
}

// open has the desktop show a page.
func open(ctx context.Context, url string) error {
	name := "xdg-open"
	if runtime.GOOS == "darwin" {
		name = "open"
	}
	return exec.CommandContext(ctx, name, url).Start()
}
