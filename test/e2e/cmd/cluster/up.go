package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/plainroute/plainroute/test/e2e/kubelets"
	"github.com/plainroute/plainroute/test/sandbox"
)

// Files of the folder of a cluster that stays up.
const (
	firstName      = "first.pid"
	janitorName    = "janitor.pid"
	socketName     = "control.sock"
	kubeconfigName = "kubeconfig"
)

func upFolder(bin string) string { return filepath.Join(bin, "e2e", "up") }

func upCommand(code *int) *cobra.Command {
	o := &options{}
	cmd := &cobra.Command{
		Use: "up", Short: "Start a cluster that stays up", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			bin, err := binFolder()
			if err != nil {
				return err
			}
			config, err := o.config(bin)
			if err != nil {
				return err
			}
			if sandbox.Outside() {
				*code, err = upOutside(config.Nodes, upFolder(bin))
				return err
			}
			*code, err = upInside(cmd.Context(), config, upFolder(bin))
			return err
		},
	}
	o.register(cmd)
	return cmd
}

// upOutside takes a port of this machine for the API server: inside there is another loopback.
func upOutside(nodes int, dir string) (int, error) {
	running, err := sandbox.Noted(filepath.Join(dir, firstName))
	if err != nil {
		return failed, err
	}
	if running != nil {
		defer running.Close()
		return failed, fmt.Errorf("a cluster is up already (process %d): `make cluster-down` takes it down", running.PID)
	}
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o755)); err != nil {
		return failed, fmt.Errorf("making a folder for what is up: %w", err)
	}
	port, err := loopbackPort()
	if err != nil {
		return failed, err
	}
	_, code, err := enter(nodes, func(first, janitor int) error {
		return errors.Join(sandbox.Note(filepath.Join(dir, firstName), first), sandbox.Note(filepath.Join(dir, janitorName), janitor))
	}, port)
	return code, err
}

func upInside(ctx context.Context, config kubelets.Config, dir string) (int, error) {
	box, code, err := sandbox.Enter(nil)
	if err != nil || box == nil { // PID 1 has done its part
		return code, err
	}
	c, err := up(ctx, config, filepath.Join(dir, socketName))
	if err != nil {
		return failed, err
	}
	port, err := net.FileListener(box.Files[1])
	if err != nil {
		return failed, fmt.Errorf("opening the port that was passed: %w", err)
	}
	go relay(port, net.TCPAddrFromAddrPort(kubelets.APIServer()))
	kubeconfig := filepath.Join(dir, kubeconfigName)
	if err := writeKubeconfig(c.Kubeconfig(), kubeconfig, port.Addr().String()); err != nil {
		return failed, err
	}
	fmt.Printf(hints, kubeconfig, config.Bin)
	if err := box.Keep(); err != nil {
		return failed, err
	}
	select {} // until PID 1 is killed
}

const hints = `
The cluster is up. Its nodes are not Ready before a pod network is installed.

  export KUBECONFIG=%s PATH=%[2]s/e2e:%[2]s/tools:%[2]s:$PATH
  kubectl get nodes
  cluster node exec node-1 -- ip route

To take it down:
  make cluster-down
`

func downCommand() *cobra.Command {
	return &cobra.Command{
		Use: "down", Short: "Take down the cluster of `cluster up`", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			bin, err := binFolder()
			if err != nil {
				return err
			}
			return down(upFolder(bin))
		},
	}
}

// down ends the sandbox, waits until the janitor has cleared up, and removes the folder.
func down(dir string) error {
	first, err := sandbox.Noted(filepath.Join(dir, firstName))
	if err != nil {
		return err
	}
	janitor, err := sandbox.Noted(filepath.Join(dir, janitorName))
	if err != nil {
		return err
	}
	if first == nil {
		fmt.Println("no cluster is up")
	} else {
		defer first.Close()
		if err := first.End(); err != nil {
			return err
		}
	}
	if janitor != nil {
		defer janitor.Close()
		if err := janitor.Await(); err != nil {
			return err
		}
	}
	if first != nil {
		fmt.Printf("the cluster (process %d) is taken down\n", first.PID)
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("removing the folder of what was up: %w", err)
	}
	return nil
}
