package main

import "github.com/spf13/cobra"

// offer registers the values that shells complete for a flag, instead of names of files.
func offer(cmd *cobra.Command, flag string, values ...string) {
	if err := cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err) // no such flag, or offered twice: any test of a command finds that
	}
}
