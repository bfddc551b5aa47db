package main

import "github.com/spf13/cobra"

// offer has shells complete the values of a flag, and no names of files.
func offer(cmd *cobra.Command, flag string, values ...string) {
	if err := cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err) // no such flag, or offered twice: a fault of ours, which any run of any test meets
	}
}
