package topology

import (
	"net/netip"
	"path/filepath"
)

// Options are the operator's choices, already validated.
type Options struct {
	// NodeName is the name of our own Node.
	NodeName string
	// Router says that this host is no Node: it has routes to all Nodes' pods, and
	// no pods of its own.
	Router bool
	// ClusterCIDRs bound the pod subnets; empty: no bound.
	ClusterCIDRs []netip.Prefix
	// MaskSizes4 and MaskSizes6 are the lengths that a pod subnet may have; the zero Lengths:
	// see judge.setLengths.
	MaskSizes4, MaskSizes6 Lengths
	// ServiceCIDRs must not be overlapped by pod subnets.
	ServiceCIDRs []netip.Prefix
	// NodeCIDRs bound the next hops; empty: no bound.
	NodeCIDRs []netip.Prefix
	// Masquerade says whether pods reach the world with the node's address.
	Masquerade bool
	// Unmasqueraded4 and Unmasqueraded6 are families that Masquerade leaves out.
	Unmasqueraded4, Unmasqueraded6 bool
	// NonMasqueradeCIDRs are more destinations that see the pod's own address.
	NonMasqueradeCIDRs []netip.Prefix
	// MTU of the pods in bytes; 0: the uplink's.
	MTU int
	// Firewall has the stock firewall plugin accept each pod's packets.
	Firewall bool
	// ConfigFile makes our CNI config a regular file, which can be read from the CNI folder alone.
	ConfigFile bool
	// ConfigsBefore are names of other CNI configs that are wanted before ours.
	ConfigsBefore []string
	// Bridge is the name of the pods' bridge.
	Bridge string
	// RunDir is the folder of node-local state.
	RunDir string
	// APIServers are the API server's addresses, as far as they are known.
	APIServers []netip.Addr
}

// maskSizes returns the lengths that the operator asks for in a family.
func (o Options) maskSizes(is4 bool) Lengths {
	if is4 {
		return o.MaskSizes4
	}
	return o.MaskSizes6
}

// layout returns which files hold our CNI config. Behind a config that is wanted before ours
// there is no gate: a meta plugin would take it for the default network's config.
func (o Options) layout() Layout {
	switch {
	case !o.ConfigFile:
		return LayoutLink
	case len(o.ConfigsBefore) > 0:
		return LayoutFile
	}
	return LayoutGate
}

// ipamDir is where host-local keeps its leases.
func (o Options) ipamDir() string { return filepath.Join(o.RunDir, IPAMDir) }
