package plugins

import "testing"

// The action when ours, v1.9.1, meets another file of its name.
func TestWeigh(t *testing.T) {
	ours := identity{stock: true, version: "v1.9.1", sum: "h1:x", toolchain: "go1.26.8"}
	for name, c := range map[string]struct {
		theirs        identity
		notExecutable bool
		want          string
		doubtful      bool
	}{
		"older":            {theirs: identity{stock: true, version: "v1.8.0"}, want: "bridge: upgraded v1.8.0 -> v1.9.1"},
		"older by a digit": {theirs: identity{stock: true, version: "v1.9.0"}, want: "bridge: upgraded v1.9.0 -> v1.9.1"},
		"older, not by the alphabet": {
			theirs: identity{stock: true, version: "v1.10.0"}, want: "bridge: kept: newer v1.10.0",
		},
		"older before its release": {
			theirs: identity{stock: true, version: "v1.9.0-rc1"}, want: "bridge: upgraded v1.9.0-rc1 -> v1.9.1",
		},
		"newer":                    {theirs: identity{stock: true, version: "v2.0.0"}, want: "bridge: kept: newer v2.0.0"},
		"newer, not executable":    {theirs: identity{stock: true, version: "v2.0.0"}, notExecutable: true, want: "bridge: kept: newer v2.0.0, but not executable", doubtful: true},
		"the next, from git":       {theirs: identity{stock: true, version: "v1.9.2-0.20260101000000-abcdefabcdef"}, want: "bridge: kept: newer v1.9.2-0.20260101000000-abcdefabcdef"},
		"a distributor's":          {theirs: identity{stock: true, version: "v1.9.1-k3s1"}, want: "bridge: kept: same version v1.9.1-k3s1"},
		"an older distributor's":   {theirs: identity{stock: true, version: "v1.7.1-build20250101"}, want: "bridge: upgraded v1.7.1-build20250101 -> v1.9.1"},
		"same version":             {theirs: identity{stock: true, version: "v1.9.1", toolchain: "go1.24.1"}, want: "bridge: kept: same version v1.9.1"},
		"same, not executable":     {theirs: identity{stock: true, version: "v1.9.1"}, notExecutable: true, want: "bridge: repaired v1.9.1: it was not executable"},
		"same source, older Go":    {theirs: identity{stock: true, version: "v1.9.1", sum: "h1:x", toolchain: "go1.26.1"}, want: "bridge: upgraded v1.9.1 -> v1.9.1: built with go1.26.8, not go1.26.1"},
		"same source, newer Go":    {theirs: identity{stock: true, version: "v1.9.1", sum: "h1:x", toolchain: "go1.27.0"}, want: "bridge: kept: same version v1.9.1"},
		"same source, same Go":     {theirs: identity{stock: true, version: "v1.9.1", sum: "h1:x", toolchain: "go1.26.8"}, want: "bridge: kept: same version v1.9.1"},
		"same version, other code": {theirs: identity{stock: true, version: "v1.9.1", sum: "h1:y", toolchain: "go1.26.1"}, want: "bridge: kept: same version v1.9.1"},
		"no version":               {theirs: identity{stock: true}, want: "bridge: kept: a stock plugin without a version", doubtful: true},
		"not stock":                {theirs: identity{}, want: "bridge: kept: not a stock plugin", doubtful: true},
	} {
		t.Run(name, func(t *testing.T) {
			r := Result{Plugin: "bridge", Action: Kept, Offered: ours.version}
			r.choose(ours, c.theirs, !c.notExecutable)
			if got := r.String(); got != c.want || r.Doubtful != c.doubtful {
				t.Errorf("got %q, doubtful: %t; want %q, %t", got, r.Doubtful, c.want, c.doubtful)
			}
		})
	}
}
