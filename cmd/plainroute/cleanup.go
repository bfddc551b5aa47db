//go:build linux

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/plainroute/plainroute/pkg/cleanup"
	"github.com/plainroute/plainroute/pkg/cni"
)

type cleanupFlags struct {
	nodeFlags
	cleanup.Cleanup
	output, summary string
}

func cleanupCommand() *cobra.Command {
	f := &cleanupFlags{}
	cmd := &cobra.Command{
		Use:   "cleanup",
		Short: "Remove what plainroute created on this node, and nothing else",
		Long: `cleanup removes from this node the CNI config, the routes of protocol 112, the
bridge, the nftables table inet plainroute and the files in the run folder. It needs
CAP_NET_ADMIN and no API server, and can be repeated.

It refuses while an agent runs on the node, with any run folder, because that agent
would restore everything, and while pods are attached to the bridge. With --force it
keeps the bridge and the leases of attached pods, and removes the rest: those pods
reach only each other, and stay attached until another network takes over. Drain the
node first, or install the next network first.

Exit codes: 0 done, or nothing to remove; 1 failure, and it can be repeated;
2 wrong flags or arguments; 3 refused, and nothing was changed.`,
		Example: `  # Show what would be removed
  plainroute cleanup --dry-run

  # On a node that was drained, once its agent is being stopped
  plainroute cleanup --wait 30s`,
		RunE: f.run,
	}
	fs := cmd.Flags()
	f.declare(fs, "bridge", "run-dir", "cni-conf-dir", "proc-sys")
	fs.BoolVar(&f.DryRun, "dry-run", false, "show what would be removed, and change nothing")
	fs.BoolVar(&f.Force, "force", false, "go on while pods are attached, and keep the bridge")
	fs.DurationVar(&f.Wait, "wait", 0, "time limit for an agent on this node to end")
	fs.DurationVar(&f.DetachTimeout, "detach-timeout", cleanup.DetachTimeout, "time limit, from one detached sandbox to the next, for the container runtime to detach dead sandboxes; 0: do not wait")
	fs.StringVar(&f.CacheDir, "cni-cache-dir", cni.CacheDir, "folder in which the container runtime records attached sandboxes")
	chooseOutput(cmd, &f.output, "table")
	fs.StringVar(&f.summary, "summary", "", "file to write a summary to, in one line of JSON, such as a termination message")
	return cmd
}

func (f *cleanupFlags) run(cmd *cobra.Command, _ []string) error {
	errs := append(environment(cmd.Flags()), checkFlags(cmd.Flags())...)
	errs = append(errs, atLeast("wait", f.Wait, 0), atLeast("detach-timeout", f.DetachTimeout, 0))
	if err := invalidFlags(errs...); err != nil {
		return err
	}
	result, err := f.clean(cmd)
	if f.summary != "" {
		err = errors.Join(err, writeSummary(f.summary, result.Summary(err)))
	}
	if f.output != "json" && err != nil && len(result.Removed) == 0 {
		return err
	}
	return errors.Join(err, write(cmd.OutOrStdout(), f.output, result))
}

func (f *cleanupFlags) clean(cmd *cobra.Command) (cleanup.Result, error) {
	config := f.hostConfig()
	host, err := openHost(cmd.Context(), config)
	if err != nil {
		return cleanup.Result{DryRun: f.DryRun}, err
	}
	defer host.Close()
	f.Dataplane, f.Store, f.Notify = host, config.CNI, func(what string) { fmt.Fprintln(cmd.ErrOrStderr(), what) }
	return f.Run(cmd.Context())
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
