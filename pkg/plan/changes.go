// Package plan computes what has to change for a host to go from one State to
// another, in the order in which the changes are made. It is pure.
package plan

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/plainroute/plainroute/pkg/topology"
)

// Changes lead from the actual State to the desired one. They are made in the
// order of the fields: what is needed first, what is removed last, the CNI
// config at the very end.
type Changes struct {
	// AddBridge is the bridge to make; nil: none. It is made before the settings,
	// because some are its own, and is set up after them.
	AddBridge *topology.Device
	Sysctls   []Sysctl
	// SetDevices are the bridge and ports that are down or that lack their master.
	SetDevices []topology.Device
	// AddAddresses are missing from the bridge.
	AddAddresses []topology.Address
	// Table is written anew as a whole: it is missing, or its rules differ.
	Table *topology.Masquerade
	// Widen brings a destination into the sets before its route exists, for a
	// NAT binding outlives the rule that made it.
	Widen SetChange
	// Add and Replace are routes of ours that are missing, and those whose key is
	// there with other values.
	Add, Replace []topology.Route
	// Delete are routes of ours that nothing asks for any more.
	Delete []topology.Route
	// DeleteAddresses are the bridge's gateways of former subnets.
	DeleteAddresses []topology.Address
	// DeleteBridge names the bridge to take away; empty: none. It goes before the
	// table, which tells its name to whoever finishes an interrupted cleanup.
	DeleteBridge string
	// Narrow takes destinations from the sets once their routes are gone.
	Narrow      SetChange
	DeleteTable bool
	CNI         *topology.CNI
	DeleteCNI   bool
}

// Sysctl is a setting below /proc/sys.
type Sysctl struct{ Path, Value string }

// SetChange is a change of the elements of our sets, made as one transaction:
// deletions come first, for intervals may not overlap at any moment.
type SetChange struct {
	DeleteCluster, AddCluster []netip.Prefix
	DeleteNodes, AddNodes     []netip.Addr
}

// Empty tells that no element changes.
func (s SetChange) Empty() bool {
	return len(s.DeleteCluster)+len(s.AddCluster)+len(s.DeleteNodes)+len(s.AddNodes) == 0
}

// Empty tells that nothing changes.
func (c Changes) Empty() bool {
	return c.KernelEmpty() && !c.TouchesCNI()
}

// TouchesCNI tells that the CNI config is written or removed.
func (c Changes) TouchesCNI() bool { return c.CNI != nil || c.DeleteCNI }

// KernelEmpty tells that nothing changes but the CNI config.
func (c Changes) KernelEmpty() bool {
	return len(c.Sysctls)+len(c.SetDevices)+len(c.AddAddresses)+len(c.Add)+len(c.Replace)+len(c.Delete)+len(c.DeleteAddresses) == 0 &&
		c.AddBridge == nil && c.DeleteBridge == "" && c.Table == nil && !c.DeleteTable && c.Widen.Empty() && c.Narrow.Empty()
}

// WithoutRemovals leaves out what a later, fuller view might want back.
func (c Changes) WithoutRemovals() Changes {
	c.Delete, c.DeleteAddresses, c.DeleteBridge, c.Narrow, c.DeleteTable, c.DeleteCNI = nil, nil, "", SetChange{}, false, false
	return c
}

// WithoutBridge leaves out the making of the bridge, and what can't be done without it.
func (c Changes) WithoutBridge() Changes {
	if c.AddBridge == nil {
		return c
	}
	name := c.AddBridge.Name
	c.Sysctls = slices.DeleteFunc(slices.Clone(c.Sysctls), func(s Sysctl) bool {
		return slices.Contains(strings.Split(s.Path, "/"), name)
	})
	c.AddBridge, c.SetDevices, c.AddAddresses = nil, nil, nil
	return c
}

// WithoutCNI leaves the CNI config as it is.
func (c Changes) WithoutCNI() Changes {
	c.CNI, c.DeleteCNI = nil, false
	return c
}

// OnlyCNI leaves the kernel as it is.
func (c Changes) OnlyCNI() Changes { return Changes{CNI: c.CNI, DeleteCNI: c.DeleteCNI} }

// Removes tells whether WithoutRemovals would leave anything out.
func (c Changes) Removes() bool {
	return len(c.Delete)+len(c.DeleteAddresses) > 0 || c.DeleteBridge != "" || !c.Narrow.Empty() || c.DeleteTable || c.DeleteCNI
}
