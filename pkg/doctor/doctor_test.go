package doctor

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/plainroute/plainroute/pkg/finding"
)

// One check's fault hides nothing of what others found, and their order is that of the list.
func TestExamine(t *testing.T) {
	found := Examine(t.Context(), &Patient{}, []Check{
		{"good", func(context.Context, *Patient) []Finding { return nil }},
		{"broken", func(context.Context, *Patient) []Finding { panic("no such thing") }},
		{"bad", func(context.Context, *Patient) []Finding { return []Finding{Fail("a", "b", "c"), Warn("d", "e", "f")} }},
		{"blind", func(context.Context, *Patient) []Finding { return Skip("dark", "light") }},
	})
	var got []string
	for _, f := range found {
		got = append(got, f.Check+" "+string(f.Verdict))
	}
	if want := "good ok, broken warning, bad failure, bad warning, blind skipped"; strings.Join(got, ", ") != want {
		t.Errorf("found %q, want %q", got, want)
	}
	if !strings.Contains(found[1].Fault, "no such thing") {
		t.Errorf("the panic is told as %q", found[1].Fault)
	}
}

func TestCheckThatHangs(t *testing.T) {
	c := Check{"slow", func(context.Context, *Patient) []Finding {
		<-t.Context().Done() // whatever its own context says
		return nil
	}}
	begin := time.Now()
	found := c.examine(t.Context(), &Patient{}, 10*time.Millisecond)
	if len(found) != 1 || found[0].Verdict != Warning || time.Since(begin) > time.Minute {
		t.Errorf("found %+v after %s", found, time.Since(begin))
	}
}

func TestNamesAreUnique(t *testing.T) {
	seen := map[string]bool{}
	var names []string
	for _, c := range Checks() {
		if seen[c.Name] || c.Run == nil || strings.ContainsAny(c.Name, " ,_") {
			t.Errorf("the check %q", c.Name)
		}
		seen[c.Name] = true
		names = append(names, c.Name)
	}
	if !slices.Equal(names, finding.CheckNames()) {
		t.Errorf("checks are %q, and those that can be asked for %q", names, finding.CheckNames())
	}
}
