package problem

import "strings"

// Checks returns the names of the checks of `plainroute doctor` in the order of its output.
// pkg/doctor has a function for each, and docs/doctor.md a row. A workstation, which can't run
// them, validates --check by these names.
func Checks() []string {
	return []string{
		"agent", "capabilities", "forwarding", "rp-filter", "bridge-netfilter", "forward-policy", "foreign-routes", "policy-rules",
		"cni-configs", "cni-plugins", "leftovers", "neighbors", "mac-addresses", "path-mtu", "pod-packets", "neighbor-limits",
		"conntrack", "duplicates", "ports", "node-ports", "clocks", "network-managers", "bridge-address", "leases", "old-subnet",
	}
}

// ReasonOf returns the Reason of the Problems that a check finds: its name in CamelCase.
func ReasonOf(check string) Reason {
	var b strings.Builder
	for _, word := range strings.Split(check, "-") {
		switch word {
		case "cni", "mac", "mtu", "rp":
			b.WriteString(strings.ToUpper(word))
		default:
			b.WriteString(strings.ToUpper(word[:1]) + word[1:])
		}
	}
	return Reason(b.String())
}

// CheckOf returns the name of the check that finds Problems of a Reason, or the Reason itself if no
// check does.
func CheckOf(r Reason) string {
	for _, name := range Checks() {
		if ReasonOf(name) == r {
			return name
		}
	}
	return string(r)
}
