package problem

import (
	"os"
	"strings"
	"testing"
)

// docs/events.md has a row for each Reason that becomes an Event, with its remediation, and no
// other.
func TestPageOfEvents(t *testing.T) {
	content, err := os.ReadFile("../../docs/events.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(content), "## Reasons")
	table, _, _ = strings.Cut(table, "## ")
	rows := 1 // PodNetworkReady
	for _, r := range Reasons() {
		begin, end := "\n| `"+string(r)+"` | ", " | "+r.Remediation()+" |\n"
		i := strings.Index(table, begin)
		if r.Scope() == OfOthers {
			if i >= 0 {
				t.Errorf("the page has %s, which does not become an Event", r)
			}
			continue
		}
		rows++
		if i < 0 {
			t.Errorf("the page lacks %s", r)
			continue
		}
		if row, _, _ := strings.Cut(table[i+1:], "\n"); !strings.HasSuffix(row+"\n", end) {
			t.Errorf("the row of %s is\n%s\nwithout the remediation\n%s", r, row, r.Remediation())
		}
	}
	if got := strings.Count(table, "\n| `"); got != rows || !strings.Contains(table, "\n| `"+string(PodNetworkReady)+"` |") {
		t.Errorf("the page has %d rows, want %d, the last one of %s", got, rows, PodNetworkReady)
	}
}
