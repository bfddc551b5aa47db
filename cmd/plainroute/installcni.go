//go:build linux

package main

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"github.com/plainroute/plainroute/pkg/cni"
	"github.com/plainroute/plainroute/pkg/plugins"
	"github.com/plainroute/plainroute/pkg/text"
	"github.com/plainroute/plainroute/pkg/topology"
)

// installFlags are the choices of the install-cni command.
type installFlags struct {
	plugins.Install
	network topology.CNI // what the agent on this node will write a config of
	output  string
}

func installCNICommand() *cobra.Command {
	f := &installFlags{}
	cmd := &cobra.Command{
		Use:   "install-cni",
		Short: "Install the stock CNI plugins on this node",
		Long: `install-cni copies the stock CNI plugins into the folder from which the node's
container runtime executes them. It is the init container of the DaemonSet.

A plugin is installed where it is missing, and where a stock plugin is older
than ours. Anything else is kept, unless --force is given:

  missing, an empty file, or a symlink to a name in the
    folder that does not exist                              ours is installed
  a stock plugin, older                                     upgraded
  a stock plugin, same version, that is not executable      repaired
  a program that is cut short                               repaired
  a stock plugin, same version or newer                     kept
  a stock plugin without a version (Debian's)               kept
  any other program or script by that name                  kept
  a symlink (k3s, MicroK8s), whatever it leads to           kept

What is stock, and its version, is read from the Go build info of the binary;
nothing is executed. Only major, minor and patch are compared: what follows a
hyphen is a distributor's, and says neither newer nor older. A plugin of the same
version and source that was built with an older Go is upgraded as well.

With --force ours takes the place of all that differs; a symlink is replaced and
never written through. A folder by a plugin's name always stays.

Each plugin is written beside its place, synced, read back and renamed, so it is
never there in part, and pods may start and stop meanwhile. Several runs take
turns. What an interrupted one left is removed by the next.

Where a plugin that the pod network needs is kept and is not known to be stock,
or is not there at all, a warning says so; the exit code is that of success.`,
		Example: `  # What the DaemonSet does
  plainroute install-cni --from /cni --to /opt/cni/bin

  # Two plugins only, even where others by these names are there
  plainroute install-cni --from /cni --to /opt/cni/bin --plugins bridge,host-local --force`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd) },
	}
	fs := cmd.Flags()
	fs.StringVar(&f.From, "from", imagePlugins, "folder of the plugins to install")
	fs.StringVar(&f.To, "to", "/opt/cni/bin", "folder from which the container runtime executes plugins; made where it is missing")
	fs.StringSliceVar(&f.Names, "plugins", nil, "names of the plugins to install (default: all in --from)")
	fs.BoolVar(&f.Force, "force", false, "replace what is newer, what is not stock, and symlinks")
	fs.BoolVar(&f.network.Firewall, "firewall-plugin", false, "warn of the plugin firewall too: the agent has this flag")
	fs.StringVarP(&f.output, "output", "o", "text", "text or json")
	offer(cmd, "output", "text", "json")
	return cmd
}

// installation is what the command says it did.
type installation struct {
	To       string           `json:"to"`
	Plugins  []plugins.Result `json:"plugins"`
	Warnings []string         `json:"warnings"`
}

func (f *installFlags) run(cmd *cobra.Command) error {
	faults := environment(cmd.Flags())
	if f.output != "text" && f.output != "json" {
		faults = append(faults, fmt.Errorf("--output: %q is neither text nor json", f.output))
	}
	for _, name := range f.Names {
		if name == "" || name == "." || name == ".." || filepath.Base(name) != name {
			faults = append(faults, fmt.Errorf("--plugins: %q is no name of a plugin", name))
		}
	}
	if f.From == "" || f.To == "" {
		faults = append(faults, errors.New("--from and --to must not be empty"))
	}
	if err := faultsError(faults); err != nil {
		return err
	}
	results, err := f.Run(cmd.Context())
	if results == nil {
		return err
	}
	done := installation{To: f.To, Plugins: results}
	if done.Warnings, err = f.warnings(results, err); f.output == "json" {
		return errors.Join(err, text.WriteJSON(cmd.OutOrStdout(), done))
	}
	return errors.Join(err, done.print(cmd.OutOrStdout(), cmd.ErrOrStderr()))
}

// warnings are about plugins that the pod network needs. They add to err what keeps
// them from being told.
func (f *installFlags) warnings(results []plugins.Result, err error) ([]string, error) {
	lines, needed := []string{}, cni.RequiredBy(&f.network)
	for _, r := range results {
		if slices.Contains(needed, r.Plugin) && r.Doubtful {
			lines = append(lines, fmt.Sprintf("pods need the stock plugin %s; %s was kept: %s; if pods do not start, move it away or use --force",
				r.Plugin, filepath.Join(f.To, r.Plugin), r.Reason))
		}
	}
	missing, e := plugins.Missing(f.To, needed)
	for _, name := range missing {
		lines = append(lines, fmt.Sprintf("pods need the plugin %s; it is not in %s", name, f.To))
	}
	return lines, errors.Join(err, e)
}

func (i installation) print(out, faults io.Writer) error {
	for _, r := range i.Plugins {
		if _, err := fmt.Fprintln(out, r); err != nil {
			return err
		}
	}
	for _, line := range i.Warnings {
		if _, err := fmt.Fprintln(faults, "warning:", line); err != nil {
			return err
		}
	}
	return nil
}
