package cni

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/plainroute/plainroute/pkg/topology"
)

// suffixes are those of the files that runtimes load (ConfFiles of
// github.com/containernetworking/cni/libcni), the first by name.
var suffixes = []string{".conf", ".conflist", ".json"}

// Before returns the names of other configs that a runtime takes before ours. If the folder can't
// be read, there are none: Write returns the error.
func (s Store) Before() []string {
	entries, err := os.ReadDir(s.ConfDir)
	if err != nil {
		return nil
	}
	first := topology.Conflist
	if s.kind(s.gate()) == linked {
		first = topology.Gate
	}
	var names []string
	for _, e := range entries {
		if name := e.Name(); !e.IsDir() && name < first && name != topology.Gate && loadable(name) {
			names = append(names, name)
		}
	}
	return names
}

func loadable(name string) bool { return slices.Contains(suffixes, filepath.Ext(name)) }

// CheckBefore returns an error if a config of this name can't go before ours.
func CheckBefore(name string) error {
	switch {
	case filepath.Base(name) != name || !loadable(name):
		return fmt.Errorf("%q is not the name of a CNI config, such as 00-multus.conf", name)
	case name >= topology.Gate:
		return fmt.Errorf("%q is not before %s by name", name, topology.Gate)
	}
	return nil
}
