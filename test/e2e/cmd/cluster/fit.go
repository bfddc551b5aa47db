package main

import (
	"os"

	"github.com/spf13/cobra"

	"github.com/plainroute/plainroute/test/e2e/kubelets"
)

func fitCommand(code *int) *cobra.Command {
	nodes := 0
	cmd := &cobra.Command{
		Use: "fit", Short: "Check that this machine can run a cluster, before anything is built", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			box, exit, err := enter(nodes, nil)
			if box == nil {
				*code = exit
				return err
			}
			return kubelets.TryCgroups(os.Getenv(cgroupVariable))
		},
	}
	cmd.Flags().IntVar(&nodes, "nodes", defaultNodes, "how many nodes it is to have")
	return cmd
}
