package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/test/e2e/kubelets"
)

// inSandbox is where a cluster keeps its files: in memory, and gone with the sandbox.
const inSandbox = "/run/cluster"

func runCommand(code *int) *cobra.Command {
	o := &options{}
	cmd := &cobra.Command{
		Use: "run -- COMMAND...", Short: "Run a command with a cluster, which ends with it", Args: cobra.MinimumNArgs(1),
		Long: `run makes a cluster, runs a command in the control plane's network, with KUBECONFIG,
E2E_NODES ("cluster node") and E2E_OUTSIDE ("cluster outside --") set and kubectl in
the PATH, and takes everything down, also when it is interrupted or killed.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			bin, err := binFolder()
			if err != nil {
				return err
			}
			config, err := o.config(bin)
			if err != nil {
				return err
			}
			box, exit, err := enter(config.Nodes, nil)
			if box == nil {
				*code = exit
				return err
			}
			*code, err = run(cmd.Context(), config, args)
			return err
		},
	}
	o.register(cmd)
	return cmd
}

// up starts the cluster and listens on a socket. Errors name the folder of the logs.
func up(ctx context.Context, config kubelets.Config, socket string) (*kubelets.Cluster, error) {
	journal, err := newLogs(config.Logs)
	if err != nil {
		return nil, err
	}
	config.Say = func(line string) {
		fmt.Fprintln(os.Stderr, line)
		fmt.Fprintln(journal, line)
	}
	c, err := kubelets.Up(ctx, config)
	if err == nil {
		err = c.Serve(ctx, socket)
	}
	if err != nil {
		return nil, fmt.Errorf("%w\nthe components' logs are in %s", err, config.Logs)
	}
	return c, nil
}

// newLogs removes an earlier cluster's logs from the folder, and opens the journal of this one.
func newLogs(dir string) (*os.File, error) {
	old, err := filepath.Glob(filepath.Join(dir, "*.log"))
	if err != nil {
		return nil, fmt.Errorf("looking for earlier logs: %w", err)
	}
	for _, path := range old {
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("removing earlier logs: %w", err)
		}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("making the folder of logs: %w", err)
	}
	journal, err := os.Create(filepath.Join(dir, "cluster.log"))
	if err != nil {
		return nil, fmt.Errorf("making the journal: %w", err)
	}
	return journal, nil
}

// interruptLimit is the time that a command has to end after Ctrl-C.
const interruptLimit = 30 * time.Second

// run is the life of a cluster for one command, whose exit code it returns: it only has to end for all to be taken down.
func run(ctx context.Context, config kubelets.Config, args []string) (int, error) {
	ctx, stop := signal.NotifyContext(ctx, unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	defer stop()
	socket := filepath.Join(inSandbox, socketName)
	c, err := up(ctx, config, socket)
	if ctx.Err() != nil {
		return interrupted, errors.New("interrupted")
	}
	if err != nil {
		return failed, err
	}
	cmd, err := command(ctx, config, args)
	if err != nil {
		return failed, err
	}
	cmd.Env = append(cmd.Env, "KUBECONFIG="+c.Kubeconfig(), socketVariable+"="+socket)
	err = cmd.Run()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return interrupted, errors.New("interrupted")
	case err == nil:
		return 0, nil
	}
	fmt.Fprintln(os.Stderr, "cluster: the components' logs are in", config.Logs)
	if errors.As(err, &exit) && exit.Exited() {
		return exit.ExitCode(), nil
	}
	return failed, fmt.Errorf("running %s: %w", args[0], err)
}

// command returns the command to run with a cluster, with the programs made here in its path.
func command(ctx context.Context, config kubelets.Config, args []string) (*exec.Cmd, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("finding our own binary: %w", err)
	}
	path := []string{filepath.Join(config.Bin, "e2e"), filepath.Join(config.Bin, "tools"), os.Getenv("PATH")}
	if err := os.Setenv("PATH", strings.Join(path, ":")); err != nil { // args[0] is looked for there too
		return nil, fmt.Errorf("setting PATH: %w", err)
	}
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	// As a terminal does it: a shell passes no signal on.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGINT) }
	cmd.WaitDelay = interruptLimit
	cmd.Env = append(os.Environ(), "E2E_NODES="+self+" node", "E2E_OUTSIDE="+self+" outside --")
	return cmd, nil
}
