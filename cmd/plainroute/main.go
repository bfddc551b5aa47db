// Command plainroute is a pod network made of plain kernel routes.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/plainroute/plainroute/pkg/cleanup"
	"github.com/plainroute/plainroute/pkg/text"
)

// version and revision, the commit, are set by the linker.
var (
	version  = "dev"
	revision = "unknown"
)

// Exit codes that scripts may rely on (docs/api.md); 0 is success, or that no problems were found.
const (
	exitFailure    = 1 // problems were found, or the command failed and can be repeated
	exitUsage      = 2 // wrong flags or arguments
	exitRefused    = 3 // nothing was changed, because it would be unsafe
	exitUnanswered = 4 // a command that only reads could not read what it needs
)

const readOnly = "read-only" // annotates the commands that only read: their errors end with exitUnanswered

// usageError is a mistake in flags or arguments.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// errShown ends a command with exitFailure after it has printed the problems.
var errShown = errors.New("problems were found and printed")

// write writes a result as JSON, or as it prints itself.
func write(w io.Writer, output string, result interface{ Print(w io.Writer) error }) error {
	if output == "json" {
		return text.WriteJSON(w, result)
	}
	return result.Print(w)
}

// shown returns the error of printing a report, or errShown if the report has problems.
func shown(ok bool, err error) error {
	if err == nil && !ok {
		return errShown
	}
	return err
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	root := rootCommand()
	if strings.TrimSuffix(filepath.Base(os.Args[0]), ".exe") == pluginName {
		asPlugin(root)
	}
	cmd, err := root.ExecuteContextC(ctx)
	stop()
	if err == nil {
		return
	}
	code := exitCode(cmd, err)
	if !errors.Is(err, errShown) {
		fmt.Fprintln(os.Stderr, "plainroute:", printable(err))
	}
	if code == exitUsage {
		fmt.Fprintf(os.Stderr, "Run '%s --help' for usage.\n", root.DisplayName())
	}
	os.Exit(code)
}

// exitCode returns the exit code of a command that ended with an error.
func exitCode(cmd *cobra.Command, err error) int {
	_, reads := cmd.Annotations[readOnly]
	switch {
	case errors.Is(err, errShown):
		return exitFailure
	case errors.As(err, new(usageError)):
		return exitUsage
	case errors.Is(err, cleanup.ErrRefused):
		return exitRefused
	case reads:
		return exitUnanswered
	}
	return exitFailure
}

// printable returns an error's text without control characters, because a Node's name, a file or a
// server's answer may be part of it. Each invalid flag keeps its line.
func printable(err error) string {
	lines := []string{err.Error()}
	if usage := (usageError{}); errors.As(err, &usage) {
		lines = strings.Split(lines[0], "\n")
	}
	for i, line := range lines {
		lines[i] = text.Printable(line)
	}
	return strings.Join(lines, "\n")
}

func rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "plainroute",
		Short: "A pod network for Kubernetes made of plain kernel routes",
		Long: `plainroute connects the pods of all nodes by plain kernel routes, without
encapsulation and without a datapath of its own. On each node an agent watches the
Nodes, programs a route to every other node's pod subnet, and writes the CNI
config with which the stock bridge plugin attaches pods.

Exit codes: 0 success, or no problems found; 1 problems found, or failure;
2 wrong flags or arguments; 3 refused, nothing was changed (cleanup, uninstall);
4 the API server, the kernel or a file can't be read (status, doctor, check,
plan, dashboard).`,
		Version:       version,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          noArgs, // otherwise an unknown command would not be a usageError
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.AddCommand(statusCommand(), dashboardCommand(), checkCommand(), doctorCommand(), planCommand(), uninstallCommand(), stayCommand())
	root.AddCommand(nodeCommands()...)
	for _, cmd := range root.Commands() {
		cmd.Args = noArgs
	}
	return root
}

// noArgs refuses arguments as a usage error.
func noArgs(cmd *cobra.Command, args []string) error {
	if err := cobra.NoArgs(cmd, args); err != nil {
		return usageError{err}
	}
	return nil
}

const pluginName = "kubectl-plainroute" // the name by which `kubectl plainroute` finds its plugin on the PATH

// asPlugin turns the commands into those of `kubectl plainroute`, which is used on workstations:
// --cluster is true by default.
func asPlugin(root *cobra.Command) {
	root.Annotations = map[string]string{cobra.CommandDisplayNameAnnotation: "kubectl plainroute"}
	for _, cmd := range root.Commands() {
		if flag := cmd.Flags().Lookup("cluster"); flag != nil && flag.Value.Type() == "bool" {
			if err := flag.Value.Set("true"); err != nil {
				panic(err) // the value is valid
			}
			flag.DefValue = "true"
			cmd.Example = ofClusters(cmd.Example)
		}
		cmd.Example = strings.ReplaceAll("\n"+cmd.Example, "\n  plainroute ", "\n  kubectl plainroute ")[1:]
	}
}

// ofClusters returns the examples with --cluster, without that flag.
func ofClusters(examples string) string {
	var list []string
	for _, example := range strings.Split(examples, "\n\n") {
		if strings.Contains(example, " --cluster") {
			list = append(list, strings.ReplaceAll(example, " --cluster", ""))
		}
	}
	return strings.Join(list, "\n\n")
}
