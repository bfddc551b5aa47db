package main

import (
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
)

// kubectl finds its plugins by their names on the PATH: `kubectl plainroute` runs this one.
const pluginName = "kubectl-plainroute"

// isPlugin tells whether a program of this name was run by kubectl.
func isPlugin(name string) bool {
	return strings.TrimSuffix(filepath.Base(name), ".exe") == pluginName
}

// asPlugin makes the commands those of `kubectl plainroute`. Who uses it sits at a workstation, so the commands that
// know --cluster speak to the cluster unless they are told otherwise.
func asPlugin(root *cobra.Command) {
	root.Annotations = map[string]string{cobra.CommandDisplayNameAnnotation: "kubectl plainroute"}
	for _, cmd := range root.Commands() {
		if flag := cmd.Flags().Lookup("cluster"); flag != nil && flag.Value.Type() == "bool" {
			if err := flag.Value.Set("true"); err != nil {
				panic(err) // a bool takes that
			}
			flag.DefValue = "true"
			cmd.Example = ofClusters(cmd.Example)
		}
		cmd.Example = strings.ReplaceAll("\n"+cmd.Example, "\n  plainroute ", "\n  kubectl plainroute ")[1:]
	}
}

// ofClusters are those of a command's examples that speak to a cluster, for where they do without --cluster.
func ofClusters(examples string) string {
	var list []string
	for _, example := range strings.Split(examples, "\n\n") {
		if strings.Contains(example, " --cluster") {
			list = append(list, strings.ReplaceAll(example, " --cluster", ""))
		}
	}
	return strings.Join(list, "\n\n")
}
