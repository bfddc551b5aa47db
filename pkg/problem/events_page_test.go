package problem

import (
	"cmp"
	"os"
	"strings"
	"testing"
)

// docs/events.md has a row for each Reason of an agent: whether it blocks readiness, whether it becomes
// an Event, and its remediation.
func TestPageOfEvents(t *testing.T) {
	content, err := os.ReadFile("../../docs/events.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(content), "## Reasons")
	table, _, _ = strings.Cut(table, "## ")
	rows := append(Reasons(), PodNetworkReady)
	for _, r := range rows {
		blocks, event := cmp.Or(string(r.Blocks()), "no"), map[bool]string{true: "yes", false: "no"}[r.Event()]
		begin, end := "\n| `"+string(r)+"` | "+blocks+" | "+event+" | ", " | "+cmp.Or(r.Remediation(), "Nothing.")+" |\n"
		i := strings.Index(table, begin)
		if i < 0 {
			t.Errorf("the page has no row that begins with %s", begin[1:])
			continue
		}
		if row, _, _ := strings.Cut(table[i+1:], "\n"); !strings.HasSuffix(row+"\n", end) {
			t.Errorf("the row of %s is\n%s\nwithout the remediation\n%s", r, row, r.Remediation())
		}
	}
	if got := strings.Count(table, "\n| `"); got != len(rows) {
		t.Errorf("the page has %d rows, want %d", got, len(rows))
	}
}
