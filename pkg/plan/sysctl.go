package plan

import (
	"maps"
	"slices"
	"strings"

	"github.com/plainroute/plainroute/pkg/topology"
)

// Sysctl is a setting below /proc/sys.
type Sysctl struct{ Path, Value string }

func (s Sysctl) kind() Kind        { return KindSysctl }
func (s Sysctl) name() string      { return s.Path }
func (s Sysctl) command(Op) string { return "sysctl -w " + s.String() }

// String returns the setting in the syntax of sysctl(8).
func (s Sysctl) String() string                { return s.Path + "=" + s.Value }
func (s Sysctl) same(a, b topology.State) bool { return a.Sysctls[s.Path] == b.Sysctls[s.Path] }
func (s Sysctl) of(dev string) bool            { return slices.Contains(strings.Split(s.Path, "/"), dev) }

// diffSysctls puts accept_ra first, because forwarding drops the routes that accept_ra keeps.
func diffSysctls(desired, actual topology.State) Changes {
	var first, rest []Object
	for _, path := range slices.Sorted(maps.Keys(desired.Sysctls)) {
		switch value := desired.Sysctls[path]; {
		case actual.Sysctls[path] == value:
		case strings.HasSuffix(path, "/accept_ra"):
			first = append(first, Sysctl{path, value})
		default:
			rest = append(rest, Sysctl{path, value})
		}
	}
	return Of(Replace, append(first, rest...)...)
}
