//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/plainroute/plainroute/pkg/cleanup"
	"github.com/plainroute/plainroute/pkg/cni"
	"github.com/plainroute/plainroute/pkg/dataplane"
	"github.com/plainroute/plainroute/pkg/text"
	"github.com/plainroute/plainroute/pkg/topology"
)

// cleanupFlags are the choices of the cleanup command.
type cleanupFlags struct {
	nodeFlags
	dryRun   bool
	force    bool
	wait     time.Duration
	detach   time.Duration
	cacheDir string
	output   string
	summary  string
}

func cleanupCommand() *cobra.Command {
	f := &cleanupFlags{}
	cmd := &cobra.Command{
		Use:   "cleanup",
		Short: "Remove from this node what bears plainroute's mark, and nothing else",
		Long: `cleanup removes from the node that it runs on the CNI config, the routes of
protocol 112, the bridge, the nftables table inet plainroute and the files in the
run folder. It needs CAP_NET_ADMIN and no API server, and can be repeated.

It refuses while an agent runs on the node, with whatever run folder, which would
put everything back, and while pods are attached to the bridge. With --force the bridge stays with its
pods, their leases too, and the rest goes: they can speak to each other on this
node only, and are not detached until another network takes over. Drain the node first,
or install the next network first.

Exit codes: 0 done, or nothing was there; 1 failure, and it can be repeated;
2 wrong flags or arguments; 3 refused, and nothing was changed.`,
		Example: `  # What would go?
  plainroute cleanup --dry-run

  # On a node that was drained, once its agent is being stopped
  plainroute cleanup --wait 30s`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd) },
	}
	fs := cmd.Flags()
	f.declare(fs, "bridge", "run-dir", "cni-conf-dir", "proc-sys")
	fs.BoolVar(&f.dryRun, "dry-run", false, "show what would be removed, and change nothing")
	fs.BoolVar(&f.force, "force", false, "go on while pods are attached; the bridge stays with them")
	fs.DurationVar(&f.wait, "wait", 0, "how long to wait for an agent on this node to end")
	fs.DurationVar(&f.detach, "detach-timeout", cleanup.DetachTimeout, "how long to wait for the container runtime to detach dead sandboxes, after the last one; 0: not at all")
	fs.StringVar(&f.cacheDir, "cni-cache-dir", cni.CacheDir, "folder where the container runtime keeps account of attached sandboxes")
	fs.StringVarP(&f.output, "output", "o", "table", "table or json")
	offer(cmd, "output", "table", "json")
	fs.StringVar(&f.summary, "summary", "", "file for a summary in one line of JSON, such as a termination message")
	return cmd
}

func (f *cleanupFlags) run(cmd *cobra.Command) error {
	if err := f.validate(cmd); err != nil {
		return err
	}
	store := cni.Store{ConfDir: f.cniConfDir, RunDir: f.runDir}
	result, err := f.clean(cmd, store)
	if f.summary != "" {
		err = errors.Join(err, writeSummary(f.summary, result.Summary(err)))
	}
	if f.output == "json" {
		return errors.Join(err, text.WriteJSON(cmd.OutOrStdout(), result))
	}
	if err != nil && len(result.Removed) == 0 {
		return err
	}
	return errors.Join(err, result.Print(cmd.OutOrStdout()))
}

func (f *cleanupFlags) validate(cmd *cobra.Command) error {
	faults := environment(cmd.Flags())
	faults = append(faults, f.wrong(cmd.Flags())...)
	if err := checkPath("cni-cache-dir", f.cacheDir); err != nil {
		faults = append(faults, err)
	}
	if f.wait < 0 {
		faults = append(faults, fmt.Errorf("--wait: %s is less than nothing", f.wait))
	}
	if f.detach < 0 {
		faults = append(faults, fmt.Errorf("--detach-timeout: %s is less than nothing", f.detach))
	}
	if f.output != "table" && f.output != "json" {
		faults = append(faults, fmt.Errorf("--output: %q is neither table nor json", f.output))
	}
	return faultsError(faults)
}

func (f *cleanupFlags) clean(cmd *cobra.Command, store cni.Store) (cleanup.Result, error) {
	host, err := openHost(cmd.Context(), dataplane.Config{
		Bridge: f.bridge, ProcSys: f.procSys, ResolvConf: defaultResolvConf, CNI: store,
	})
	if err != nil {
		return cleanup.Result{DryRun: f.dryRun}, err
	}
	defer host.Close()
	return cleanup.Cleanup{
		Dataplane: host, Store: store, Force: f.force, DryRun: f.dryRun, Wait: f.wait,
		DetachTimeout: f.detach, CacheDir: f.cacheDir,
		Notify: func(what string) { fmt.Fprintln(cmd.ErrOrStderr(), what) },
	}.Run(cmd.Context())
}

// host is the kernel as cleanup sees it: nobody watches, so all is read anew.
type host struct {
	*dataplane.Kernel
	// concerns are the ranges for which others' routes are read; nil: none are, since there may be a
	// million.
	concerns []netip.Prefix
}

func (h host) Look(ctx context.Context) (topology.Host, topology.State, error) {
	h.Forget()
	facts, err := h.Facts(ctx, append([]netip.Prefix{}, h.concerns...)) // not nil, which stands for all
	if err != nil {
		return facts, topology.State{}, err
	}
	state, err := h.Observe(ctx)
	if err == nil && facts.TableUnread != "" { // what of ours is in there, nobody knows
		err = errors.New(facts.TableUnread)
	}
	return facts, state, err
}

// openHost finds out the bridge's name, if the config has none, by what bears our mark,
// so that nobody has to remember the agent's flags.
func openHost(ctx context.Context, config dataplane.Config) (host, error) {
	given := config.Bridge != ""
	if !given {
		config.Bridge = topology.Bridge
	}
	for {
		kernel, err := dataplane.New(config)
		if err != nil {
			return host{}, err
		}
		state, err := kernel.Observe(ctx)
		if err != nil {
			return host{}, errors.Join(fmt.Errorf("observing the kernel: %w", err), kernel.Close())
		}
		found := bridgeOf(state)
		if given || found == "" || found == config.Bridge {
			return host{Kernel: kernel}, nil
		}
		if err := kernel.Close(); err != nil {
			return host{}, err
		}
		config.Bridge = found
	}
}

// bridgeOf returns the bridge that our CNI config or our table was made for.
func bridgeOf(s topology.State) string {
	if s.CNI != nil && s.CNI.Bridge != "" {
		return s.CNI.Bridge
	}
	if s.Masquerade != nil {
		return s.Masquerade.Bridge
	}
	return ""
}

func writeSummary(path string, s cleanup.Summary) error {
	line, err := json.Marshal(s)
	if err == nil {
		err = os.WriteFile(path, append(line, '\n'), 0o644)
	}
	if err != nil {
		return fmt.Errorf("writing the summary: %w", err)
	}
	return nil
}
