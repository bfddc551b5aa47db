package cni

import (
	"os"
	"path/filepath"
	"slices"

	"github.com/plainroute/plainroute/pkg/topology"
)

// suffixes are those of files that runtimes load (ConfFiles of
// github.com/containernetworking/cni/libcni), the first by name.
var suffixes = []string{".conf", ".conflist", ".json"}

// Before returns the names of other configs that a runtime takes before ours. A
// folder that can't be read has none: Write says what is wrong with it.
func (s Store) Before() []string {
	entries, err := os.ReadDir(s.ConfDir)
	if err != nil {
		return nil
	}
	var names []string
	for _, e := range entries {
		if !e.IsDir() && before(e.Name()) {
			names = append(names, e.Name())
		}
	}
	return names
}

func before(name string) bool {
	return name < topology.Conflist && slices.Contains(suffixes, filepath.Ext(name))
}
