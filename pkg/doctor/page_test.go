package doctor

import (
	"os"
	"regexp"
	"slices"
	"testing"
)

// docs/doctor.md has a row for each check, in their order.
func TestPageHasAllChecks(t *testing.T) {
	page, err := os.ReadFile("../../docs/doctor.md")
	if err != nil {
		t.Fatal(err)
	}
	var rows, checks []string
	for _, row := range regexp.MustCompile("(?m)^\\| `([a-z0-9-]+)` \\| .{20,} \\|$").FindAllSubmatch(page, -1) {
		rows = append(rows, string(row[1]))
	}
	for _, c := range Checks() {
		checks = append(checks, c.Name)
	}
	if !slices.Equal(rows, checks) {
		t.Errorf("docs/doctor.md has %q, and the checks are %q", rows, checks)
	}
}
