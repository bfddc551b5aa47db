package doctor

import (
	"context"
	"flag"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/plainroute/plainroute/pkg/problem"
)

// A check that panics or hangs hides no result of others, and results are in the order of the list.
func TestExamine(t *testing.T) {
	passed, found := Examine(t.Context(), &Target{}, []Check{
		{"good", func(context.Context, *Target) []problem.Problem { return nil }},
		{"broken", func(context.Context, *Target) []problem.Problem { panic("no such thing") }},
		{"bad", func(context.Context, *Target) []problem.Problem {
			return append(Fail("a", "b", "c"), Warn("d", "e", "f")...)
		}},
		{"blind", func(context.Context, *Target) []problem.Problem { return Skip("dark", "light") }},
	})
	var got []string
	for _, f := range found {
		got = append(got, problem.CheckOf(f.Reason)+" "+string(f.Reason)+" "+string(f.Severity))
	}
	if want := "Broken Broken Warning, Bad Bad Error, Bad Bad Warning, Blind Blind Unknown"; strings.Join(got, ", ") != want || !slices.Equal(passed, []string{"good"}) {
		t.Errorf("found %q, want %q; %q passed", got, want, passed)
	}
	if !strings.Contains(found[0].Message, "no such thing") {
		t.Errorf("the panic is reported as %q", found[0].Message)
	}
}

func TestCheckThatHangs(t *testing.T) {
	c := Check{"slow", func(context.Context, *Target) []problem.Problem {
		<-t.Context().Done() // without regard to its own context
		return nil
	}}
	begin := time.Now()
	found := c.examine(t.Context(), &Target{}, 10*time.Millisecond)
	if len(found) != 1 || found[0].Severity != problem.Warning || time.Since(begin) > time.Minute {
		t.Errorf("found %+v after %s", found, time.Since(begin))
	}
}

var update = flag.Bool("update", false, "copy the checks' names to pkg/problem")

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
	if *update {
		if err := os.WriteFile("../problem/checks.txt", []byte(strings.Join(names, "\n")+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if !slices.Equal(names, problem.Checks()) {
		t.Errorf("checks are %q, and those that can be asked for %q", names, problem.Checks())
	}
}
