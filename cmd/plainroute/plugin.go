package main

import (
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
)

// pluginName is the name by which `kubectl plainroute` finds its plugin on the PATH.
const pluginName = "kubectl-plainroute"

// isPlugin reports whether kubectl ran a program of this name.
func isPlugin(name string) bool {
	return strings.TrimSuffix(filepath.Base(name), ".exe") == pluginName
}

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
