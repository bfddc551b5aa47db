package main

import "github.com/spf13/cobra"

// nodeCommands returns the commands that work on a node.
func nodeCommands() []*cobra.Command {
	return []*cobra.Command{agentCommand(), installCNICommand(), cleanupCommand(), responderCommand()}
}
