package doctor

// Checks are all there are, in the order in which they are told.
func Checks() []Check {
	return []Check{
		{"capabilities", capabilities},
		{"forwarding", forwarding},
		{"bridge-netfilter", bridgeNetfilter},
		{"forward-policy", forwardPolicy},
		{"foreign-routes", foreignRoutes},
		{"cni-configs", cniConfigs},
		{"cni-plugins", cniPlugins},
		{"leftovers", leftovers},
	}
}
