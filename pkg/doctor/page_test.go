package doctor

import (
	"os"
	"regexp"
	"slices"
	"strings"
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

// The table of packets names checks that exist, and has a row for each kind that policy-rules asks
// about.
func TestTableOfPackets(t *testing.T) {
	page, err := os.ReadFile("../../docs/doctor.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(page), "\n## Which packets are looked at\n")
	table, _, _ = strings.Cut(table, "\n## ")
	known := []string{"status", "plainroute check", "RouteConflict"}
	for _, c := range Checks() {
		known = append(known, c.Name)
	}
	for _, name := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(table, -1) {
		if !slices.Contains(known, name[1]) {
			t.Errorf("the table names %s, which is no check", name[1])
		}
	}
	rows := map[string]string{
		"a pod here to a peer's pod": "| a pod, a peer's pod |", "a peer's pod to a pod here": "| a pod, a peer's pod |",
		"a pod here to a peer": "| a pod, a peer's address ", "a peer to a pod here": "| a pod, a peer's address ",
		"this node to a peer's pod": "| this node (kubelet, host-network pods, node ports), a peer's pod |", "this node to a pod here": "| this node, a pod here |",
	}
	testbed := newDualTestbed(t)
	for _, w := range testbed.flows(testbed.rules()) {
		if row := rows[w.kind]; row == "" || !strings.Contains(table, "\n"+row) {
			t.Errorf("no row %q for %s", row, w.kind)
		}
		rows[w.kind+" seen"] = "x"
	}
	for kind := range rows {
		if !strings.HasSuffix(kind, " seen") && rows[kind+" seen"] == "" {
			t.Errorf("policy-rules does not ask for what goes from %s", kind)
		}
	}
}
