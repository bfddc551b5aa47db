// Command plainroute is a pod network made of plain kernel routes.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
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

// Exit codes that scripts may rely on.
const (
	exitFailure = 1
	exitUsage   = 2
	exitRefused = 3
)

// usageError is a mistake in flags or arguments.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// errShown ends a command with exitFailure that has shown what is wrong.
var errShown = errors.New("something is wrong, as shown")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	root := rootCommand()
	if isPlugin(os.Args[0]) {
		asPlugin(root)
	}
	err := root.ExecuteContext(ctx)
	stop()
	if err == nil {
		return
	}
	if errors.Is(err, errShown) {
		os.Exit(exitFailure)
	}
	fmt.Fprintln(os.Stderr, "plainroute:", printable(err))
	var usage usageError
	if errors.As(err, &usage) {
		fmt.Fprintf(os.Stderr, "Run '%s --help' for usage.\n", root.DisplayName())
		os.Exit(exitUsage)
	}
	if errors.Is(err, cleanup.ErrRefused) {
		os.Exit(exitRefused)
	}
	os.Exit(exitFailure)
}

// printable is an error's text in which nothing steers a terminal: a Node's name, a file's text and what a server answers may
// be in it. The faults of flags have a line each.
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
		Long: `plainroute makes pods on all nodes reach each other by plain kernel routes:
no encapsulation, no datapath of its own. On each node an agent watches the
Nodes, programs a route to every other node's pod subnet, and writes the CNI
config with which the stock bridge plugin attaches pods.

Exit codes: 0 success, 1 failure, 2 wrong flags or arguments,
3 refused (cleanup).`,
		Version:       version,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          noArgs, // else the word that is no command is no usageError
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.AddCommand(statusCommand(), dashboardCommand(), checkCommand(), doctorCommand(), planCommand(), uninstallCommand(), stayCommand())
	root.AddCommand(nodeCommands()...)
	return root
}

// noArgs refuses arguments as a usage error.
func noArgs(cmd *cobra.Command, args []string) error {
	if err := cobra.NoArgs(cmd, args); err != nil {
		return usageError{err}
	}
	return nil
}
