package plan

import (
	"cmp"
	"slices"
	"strings"

	"github.com/plainroute/plainroute/pkg/topology"
)

// Sysctl is a setting below /proc/sys.
type Sysctl struct{ Path, Value string }

// Kind is KindSysctl.
func (s Sysctl) Kind() Kind { return KindSysctl }

// Name is the path.
func (s Sysctl) Name() string { return s.Path }

// String returns the setting in the syntax of sysctl(8).
func (s Sysctl) String() string { return s.Path + "=" + s.Value }

func (s Sysctl) command(Op) string { return "sysctl -w " + s.String() }

func (s Sysctl) same(a, b topology.State) bool { return a.Sysctls[s.Path] == b.Sysctls[s.Path] }

// of reports whether it is a setting of a device.
func (s Sysctl) of(dev string) bool { return slices.Contains(strings.Split(s.Path, "/"), dev) }

// diffSysctls puts accept_ra first, because forwarding drops the routes that accept_ra keeps.
func diffSysctls(desired, actual topology.State) Changes {
	var settings []Sysctl
	for path, value := range desired.Sysctls {
		if actual.Sysctls[path] != value {
			settings = append(settings, Sysctl{path, value})
		}
	}
	slices.SortFunc(settings, func(a, b Sysctl) int {
		rank := func(s Sysctl) int {
			if strings.HasSuffix(s.Path, "/accept_ra") {
				return 0
			}
			return 1
		}
		return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a.Path, b.Path))
	})
	c := make(Changes, 0, len(settings))
	for _, s := range settings {
		c = append(c, Change{Replace, s})
	}
	return c
}
