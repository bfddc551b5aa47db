//go:build linux

package main

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/plainroute/plainroute/pkg/cni"
	"github.com/plainroute/plainroute/pkg/plugins"
	"github.com/plainroute/plainroute/pkg/status"
	"github.com/plainroute/plainroute/pkg/text"
	"github.com/plainroute/plainroute/pkg/topology"
)

type installFlags struct {
	plugins.Install
	network topology.CNI // of the config that the agent on this node writes
	output  string
}

func installCNICommand() *cobra.Command {
	f := &installFlags{}
	cmd := &cobra.Command{
		Use:   "install-cni",
		Short: "Install the stock CNI plugins on this node",
		Long: `install-cni copies the stock CNI plugins into the folder from which the node's
container runtime executes them. It is the init container of the DaemonSet.

install-cni installs a plugin that is missing or older than its own. It keeps
everything else, unless --force is given:

  missing, an empty file, or a symlink to a name in the
    folder that does not exist                              installed
  a stock plugin, older                                     upgraded
  a stock plugin, same version, that is not executable      repaired
  a truncated program                                       repaired
  a stock plugin, same version or newer                     kept
  a stock plugin without a version (Debian's)               kept
  any other program or script of that name                  kept
  a symlink (k3s, MicroK8s), whatever its target            kept

It reads from the Go build info of a binary whether that is a stock plugin, and
its version; it executes nothing. It compares only major, minor and patch, because
a suffix after a hyphen is a distributor's and neither newer nor older. A plugin of
the same version and source that was built with an older Go is upgraded as well.

With --force it replaces everything that differs. It replaces a symlink itself, not
its target, and always keeps a folder of a plugin's name.

It writes each plugin beside its destination, syncs it, reads it back and renames
it, so that pods may start and stop meanwhile. Several runs take turns, and each
removes the files of interrupted ones.

It prints a warning for a plugin that pods need and that is missing, or is kept and
may not be stock; the exit code is that of success.`,
		Example: `  # What the DaemonSet does
  plainroute install-cni --from /cni --to /opt/cni/bin

  # Two plugins only, even if other programs have these names
  plainroute install-cni --from /cni --to /opt/cni/bin --plugins bridge,host-local --force`,
		RunE: f.run,
	}
	fs := cmd.Flags()
	fs.StringVar(&f.From, "from", imagePlugins, "folder of the plugins to install")
	fs.StringVar(&f.To, "to", "/opt/cni/bin", "folder from which the container runtime executes plugins; created if missing")
	fs.StringSliceVar(&f.Names, "plugins", nil, "names of the plugins to install (default: all in --from)")
	fs.BoolVar(&f.Force, "force", false, "replace also newer plugins, other programs, and symlinks")
	fs.BoolVar(&f.network.Firewall, "firewall-plugin", false, "warn about the plugin firewall too, if the agent has this flag")
	chooseOutput(cmd, &f.output, "text")
	return cmd
}

// installation is the command's output.
type installation struct {
	metav1.TypeMeta `json:",inline"`
	To              string           `json:"to"`
	Plugins         []plugins.Result `json:"plugins"`
	Warnings        []string         `json:"warnings"`
}

func (f *installFlags) run(cmd *cobra.Command, _ []string) error {
	errs := append(environment(cmd.Flags()), checkFlags(cmd.Flags())...)
	for _, name := range f.Names {
		if name == "" || name == "." || name == ".." || filepath.Base(name) != name {
			errs = append(errs, fmt.Errorf("--plugins: %q is not a plugin name", name))
		}
	}
	if f.From == "" || f.To == "" {
		errs = append(errs, errors.New("--from and --to must not be empty"))
	}
	if err := invalidFlags(errs...); err != nil {
		return err
	}
	results, err := f.Run(cmd.Context())
	if results == nil {
		return err
	}
	warnings, err := f.warnings(results, err)
	if f.output != "json" {
		for _, line := range warnings {
			fmt.Fprintln(cmd.ErrOrStderr(), "warning:", line)
		}
	}
	done := installation{status.TypeMeta("InstallReport"), f.To, results, warnings}
	return errors.Join(err, write(cmd.OutOrStdout(), f.output, done))
}

// warnings returns a line for each plugin that pods need and that may not work. It adds to err why the
// folder can't be read.
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

// Print prints a line for each plugin.
func (i installation) Print(w io.Writer) error {
	_, err := fmt.Fprintln(w, text.List(i.Plugins, "\n"))
	return err
}
