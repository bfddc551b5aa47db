package topology

import "net/netip"

// Options are the operator's validated options.
type Options struct {
	NodeName           string         // of our own Node
	Router             bool           // this host is not a Node: it has routes to all pods, and no pods of its own
	ClusterCIDRs       []netip.Prefix // bound the pod subnets; empty: no bound
	ServiceCIDRs       []netip.Prefix // must not overlap with pod subnets
	NodeCIDRs          []netip.Prefix // bound the next hops; empty: no bound
	Masquerade         bool           // gives pods' packets to the world the node's address
	NonMasqueradeCIDRs []netip.Prefix // more destinations to which pods' packets are not masqueraded
	MTU                int            // of pods in bytes; 0: the uplink's
	Firewall           bool           // has the stock firewall plugin accept each pod's packets
	ConfigFile         bool           // makes our CNI config a regular file, readable through the CNI folder alone
	ConfigsBefore      []string       // names of other CNI configs that may go before ours
	Bridge             string         // the name of the pods' bridge
	RunDir             string         // the folder of node-local state
	APIServers         []netip.Addr   // the API server's known addresses

	MaskSizes4, MaskSizes6         Lengths // the allowed lengths of pod subnets; the zero Lengths: see setLengths
	Unmasqueraded4, Unmasqueraded6 bool    // exclude a family from Masquerade
}

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
