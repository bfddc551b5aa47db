package plan

import (
	"slices"

	"github.com/plainroute/plainroute/pkg/topology"
)

// Address is an address of the bridge: a gateway of pods. One of a former subnet is deleted.
type Address struct{ topology.Address }

func (a Address) kind() Kind             { return KindAddress }
func (a Address) name() string           { return a.Address.String() }
func (a Address) command(op Op) string   { return "ip address " + string(op) + " " + a.Address.String() }
func (a Address) keep(s *topology.State) { s.Addresses = append(s.Addresses, a.Address) }

func (a Address) same(before, desired topology.State) bool {
	return slices.Contains(before.Addresses, a.Address) == slices.Contains(desired.Addresses, a.Address)
}

func diffAddresses(desired, actual topology.State) Changes {
	return diffList(desired.Addresses, actual.Addresses, topology.Address.Compare, func(a topology.Address) Object { return Address{a} })
}
