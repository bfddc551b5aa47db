// Command cluster makes a Kubernetes cluster of real kubelets on this machine, see package test/e2e/kubelets.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/plainroute/plainroute/test/e2e/kubelets"
	"github.com/plainroute/plainroute/test/sandbox"
)

// Exit codes beyond those of the command that is run.
const (
	failed = 1
	// notHere is EX_TEMPFAIL of sysexits.h: nothing is wrong, but this machine can't.
	notHere = 75
	// interrupted is a shell's exit code after Ctrl-C.
	interrupted = 130
)

func main() {
	code := 0
	played, err := kubelets.Stage()
	if !played {
		err = root(&code).ExecuteContext(context.Background())
	}
	switch {
	case errors.Is(err, kubelets.ErrNotHere), errors.Is(err, sandbox.ErrNotPermitted):
		code = notHere
	case err != nil && code == 0:
		code = failed
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "cluster:", err)
	}
	os.Exit(code)
}

func root(code *int) *cobra.Command {
	root := &cobra.Command{
		Use:   "cluster",
		Short: "A Kubernetes cluster of real kubelets on this machine",
		Long: `cluster makes nodes out of namespaces, each with a kubelet, containerd, runc and
kube-proxy, on a LAN with a control plane. They have no pod network: install one.

Exit codes: that of the command that was run; 1 failure; 75 this machine can't run it.`,
		Example: `  # A cluster for as long as a command runs
  cluster run -- kubectl get nodes

  # A cluster to play with
  cluster up && export KUBECONFIG=bin/e2e/up/kubeconfig
  cluster node exec node-1 -- ip route
  cluster outside -- ping -c 1 192.168.1.11
  cluster down`,
		SilenceErrors: true, SilenceUsage: true,
	}
	root.AddCommand(fitCommand(code), runCommand(code), upCommand(code), downCommand(), nodeCommand(code), outsideCommand(code), loadCommand(code))
	return root
}

// binFolder is where our own binary is, with all others below it.
func binFolder() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("finding our own binary: %w", err)
	}
	return filepath.Dir(self), nil
}

// socketVariable gives commands that `cluster run` runs the socket of their cluster.
const socketVariable = "CLUSTER_SOCKET"

// socket is where the cluster listens: the one that we were started in, else the one of `cluster up`.
func socket() (string, error) {
	if path := os.Getenv(socketVariable); path != "" {
		return path, nil
	}
	bin, err := binFolder()
	if err != nil {
		return "", err
	}
	path := filepath.Join(upFolder(bin), "control.sock")
	if _, err := os.Stat(path); err != nil {
		return "", errors.New("no cluster is up; `cluster up` starts one")
	}
	return path, nil
}

func ask(code *int, request kubelets.Request) error {
	path, err := socket()
	if err != nil {
		return err
	}
	*code, err = kubelets.Ask(path, request)
	return err
}

func nodeCommand(code *int) *cobra.Command {
	node := &cobra.Command{Use: "node", Short: "Do something to a node"}
	node.AddCommand(&cobra.Command{
		Use: "exec NODE -- COMMAND...", Short: "Run a command on a node", Args: cobra.MinimumNArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			return ask(code, kubelets.Request{Verb: "exec", Node: args[0], Args: args[1:]})
		},
	}, &cobra.Command{
		Use: "add [NODE]", Short: "Make one more node, and print its name", Args: cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			return ask(code, kubelets.Request{Verb: "add", Node: strings.Join(args, "")})
		},
	})
	for verb, short := range map[string]string{
		"reboot": "Switch a node off and on again", "stop": "Switch a node off", "start": "Switch a node on again",
	} {
		node.AddCommand(&cobra.Command{
			Use: verb + " NODE", Short: short, Args: cobra.ExactArgs(1),
			RunE: func(_ *cobra.Command, args []string) error {
				return ask(code, kubelets.Request{Verb: verb, Node: args[0]})
			},
		})
	}
	return node
}

func outsideCommand(code *int) *cobra.Command {
	return &cobra.Command{
		Use: "outside -- COMMAND...", Short: "Run a command on a host beyond the nodes' router, with no route to any pod",
		Args: cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			return ask(code, kubelets.Request{Verb: "outside", Args: args})
		},
	}
}

func loadCommand(code *int) *cobra.Command {
	return &cobra.Command{
		Use: "load ARCHIVE...", Short: "Bring images to all nodes", Args: cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			for _, path := range args {
				archive, err := filepath.Abs(path)
				if err != nil {
					return err
				}
				if err := ask(code, kubelets.Request{Verb: "load", Args: []string{archive}}); err != nil || *code != 0 {
					return err
				}
			}
			return nil
		},
	}
}
