package plan

import (
	"slices"

	"github.com/plainroute/plainroute/pkg/topology"
)

// Address is an address of the bridge: a gateway of pods. One of a former subnet is deleted.
type Address struct{ topology.Address }

// Kind is KindAddress.
func (a Address) Kind() Kind { return KindAddress }

// Name is the address with its device.
func (a Address) Name() string { return a.Address.String() }

func (a Address) command(op Op) string { return "ip address " + string(op) + " " + a.Address.String() }

func (a Address) same(before, desired topology.State) bool {
	return slices.Contains(before.Addresses, a.Address) == slices.Contains(desired.Addresses, a.Address)
}

func (a Address) keep(s *topology.State) { s.Addresses = append(s.Addresses, a.Address) }

func diffAddresses(desired, actual topology.State) Changes {
	var c Changes
	add, remove := diffSorted(desired.Addresses, actual.Addresses, topology.Address.Compare)
	for _, a := range add {
		c = append(c, Change{Add, Address{a}})
	}
	for _, a := range remove {
		c = append(c, Change{Delete, Address{a}})
	}
	return c
}
