package doctor

// Checks returns all checks, in the order in which their results are printed.
func Checks() []Check {
	return []Check{
		{"agent", agentProblems},
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
		{"neighbors", neighbors},
		{"mac-addresses", macAddresses},
		{"path-mtu", pathMTU},
		{"pod-packets", podPackets},
		{"neighbor-limits", neighborLimits},
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
