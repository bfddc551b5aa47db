package cni

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/plainroute/plainroute/pkg/topology"
)

// Required returns the plugins without which no pod starts: those of our config, and loopback,
// which container runtimes call for each pod.
func Required() []string { return []string{"bridge", "host-local", "loopback", "portmap"} }

// RequiredBy returns those of our plugins that a config calls.
func RequiredBy(c *topology.CNI) []string {
	if c != nil && c.Firewall {
		return append(Required(), topology.FirewallPlugin)
	}
	return Required()
}

// Chained returns the further plugins that a config calls.
func Chained(c *topology.CNI) []string {
	var names []string
	if c != nil {
		for _, p := range c.Plugins {
			names = append(names, p.Type)
		}
	}
	return names
}

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
