package finding

// CheckNames are those of all checks, in the order in which a doctor tells them. A
// workstation, where no doctor is, knows by them what it can ask for.
func CheckNames() []string {
	return []string{
		"agent",
		"capabilities",
		"forwarding",
		"rp-filter",
		"bridge-netfilter",
		"forward-policy",
		"foreign-routes",
		"policy-rules",
		"cni-configs",
		"cni-plugins",
		"leftovers",
		"neighbours",
		"mac-addresses",
		"path-mtu",
		"pod-packets",
		"neighbour-limits",
		"conntrack",
		"duplicates",
		"ports",
		"node-ports",
		"clocks",
		"network-managers",
		"bridge-address",
		"leases",
		"old-subnet",
	}
}
