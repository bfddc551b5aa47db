package problem

import (
	_ "embed"
	"strings"
)

//go:embed checks.txt
var checks string

// Checks returns the names of the checks of `plainroute doctor` in the order of its output. They are
// a copy of those of pkg/doctor, for a workstation, which can't run the checks and validates --check.
func Checks() []string { return strings.Fields(checks) }

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
