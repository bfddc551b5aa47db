package doctor

// Checks are all there are, in the order in which they are told.
func Checks() []Check {
	return []Check{
		{"agent", agentsWord},
		{"capabilities", capabilities},
		{"forwarding", forwarding},
		{"rp-filter", reversePath},
		{"bridge-netfilter", bridgeNetfilter},
		{"forward-policy", forwardPolicy},
		{"foreign-routes", foreignRoutes},
		{"policy-rules", policyRules},
		{"cni-configs", cniConfigs},
		{"cni-plugins", cniPlugins},
		{"leftovers", leftovers},
		{"neighbors", neighbours},
		{"mac-addresses", cards},
		{"path-mtu", pathMTU},
		{"pod-packets", podPackets},
		{"neighbor-limits", neighbourLimits},
		{"conntrack", conntrack},
		{"duplicates", duplicates},
		{"ports", ports},
		{"node-ports", nodePorts},
		{"clocks", clocks},
		{"network-managers", networkManagers},
		{"bridge-address", bridgeAddress},
		{"leases", leakedLeases},
		{"old-subnet", oldSubnet},
	}
}
