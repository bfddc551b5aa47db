package topology

import "net/netip"

// Options are the operator's validated options.
type Options struct {
	// NodeName is the name of our own Node.
	NodeName string
	// Router means that this host is not a Node: it has routes to all Nodes' pods, and no pods of
	// its own.
	Router bool
	// ClusterCIDRs bound the pod subnets; empty: no bound.
	ClusterCIDRs []netip.Prefix
	// MaskSizes4 and MaskSizes6 are the allowed lengths of pod subnets; the zero Lengths: see
	// validator.setLengths.
	MaskSizes4, MaskSizes6 Lengths
	// ServiceCIDRs must not overlap with pod subnets.
	ServiceCIDRs []netip.Prefix
	// NodeCIDRs bound the next hops; empty: no bound.
	NodeCIDRs []netip.Prefix
	// Masquerade gives pods' packets to the world the node's address.
	Masquerade bool
	// Unmasqueraded4 and Unmasqueraded6 exclude a family from Masquerade.
	Unmasqueraded4, Unmasqueraded6 bool
	// NonMasqueradeCIDRs are more destinations to which pods' packets are not masqueraded.
	NonMasqueradeCIDRs []netip.Prefix
	// MTU is that of pods in bytes; 0: the uplink's.
	MTU int
	// Firewall has the stock firewall plugin accept each pod's packets.
	Firewall bool
	// ConfigFile makes our CNI config a regular file, readable through the CNI folder alone.
	ConfigFile bool
	// ConfigsBefore are names of other CNI configs that may go before ours.
	ConfigsBefore []string
	// Bridge is the name of the pods' bridge.
	Bridge string
	// RunDir is the folder of node-local state.
	RunDir string
	// APIServers are the API server's known addresses.
	APIServers []netip.Addr
}

// maskSizes returns the operator's lengths for a family.
func (o Options) maskSizes(is4 bool) Lengths {
	if is4 {
		return o.MaskSizes4
	}
	return o.MaskSizes6
}

// layout returns the files of our CNI config. Behind a config that may go before ours there is no
// gate, which a meta plugin would take for the default network's config.
func (o Options) layout() Layout {
	switch {
	case !o.ConfigFile:
		return LayoutLink
	case len(o.ConfigsBefore) > 0:
		return LayoutFile
	}
	return LayoutGate
}
