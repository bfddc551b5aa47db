package problem

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

// found returns a Problem with evidence and a remediation of its own.
func found(severity Severity, reason Reason, message, evidence, remediation string) Problem {
	return Problem{Severity: severity, Reason: reason, Message: message, Evidence: evidence, Remediation: remediation}
}

func TestGroups(t *testing.T) {
	var g Groups
	g.Add("b", found(Warning, "Shared", "one", "eth1", "fix it"))
	g.Add("a", found(Error, "Alone", "two", "", "fix that"))
	g.Add("c", found(Warning, "Shared", "one", "eth0", "fix it"))
	g.Add("c", found(Warning, "Shared", "one", "eth0", "fix it")) // a Node may report it twice
	g.Add("c", found(Warning, "Shared", "other", "", ""))
	g.Add("", found(Info, "Note", "three", "", ""))
	want := []Group{
		{Problem: found(Error, "Alone", "two", "", "fix that"), Nodes: []string{"a"}},
		{Problem: found(Warning, "Shared", "one", "eth1", "fix it"), Nodes: []string{"b", "c"}, OwnEvidence: true},
		{Problem: found(Warning, "Shared", "other", "", ""), Nodes: []string{"c"}},
		{Problem: found(Info, "Note", "three", "", "")},
	}
	same := func(a, b Group) bool {
		return a.Problem == b.Problem && slices.Equal(a.Nodes, b.Nodes) && a.OwnEvidence == b.OwnEvidence && a.OwnRemediation == b.OwnRemediation
	}
	if got := g.Sorted(); !slices.EqualFunc(got, want, same) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

// A Reason with a more severe Problem precedes others, and its Problems stay together.
func TestGroupsOfOneReason(t *testing.T) {
	var g Groups
	g.Add("a", found(Warning, "A", "one", "", ""))
	g.Add("a", found(Warning, "B", "two", "", ""))
	g.Add("a", found(Error, "A", "three", "", ""))
	g.Add("b", found(Warning, "B", "two", "", ""))
	var got []string
	for _, group := range g.Sorted() {
		got = append(got, group.Message)
	}
	if want := []string{"three", "one", "two"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestPrinter(t *testing.T) {
	many := func(reason Reason, count int) []Group {
		var list []Group
		for i := range count {
			list = append(list, Group{Problem: found(Warning, reason, fmt.Sprintf("number %d", i), "", "fix it")})
		}
		return list
	}
	own := Group{Problem: found(Error, "RPFilter", "strict", "all: 1", "set it"), Nodes: []string{"a", "b"}, OwnEvidence: true, OwnRemediation: true}
	for name, c := range map[string]struct {
		printer   Printer
		groups    []Group
		want, not []string
	}{
		"a shared remediation": {
			printer: Printer{}, groups: many("A", 3),
			want: []string{"warning: A: number 0\nwarning: A: number 1\nwarning: A: number 2\n  remediation: fix it\n"}, not: []string{"more"},
		},
		"many of a Reason": {
			printer: Printer{More: "-o json lists them"}, groups: slices.Concat(many("A", 12), many("B", 1)),
			want: []string{"number 9\n  and 2 more of A: -o json lists them\nwarning: B: number 0\n  remediation: fix it\n"}, not: []string{"number 10"},
		},
		"at most some": {
			printer: Printer{Max: 2, More: "-o json lists them"}, groups: slices.Concat(many("A", 1), many("B", 2)),
			want: []string{"warning: A: number 0\nwarning: B: number 0\n  remediation: fix it\nand 1 more: -o json lists them\n"}, not: []string{"number 1"},
		},
		"a comment": {Printer{Prefix: "# ", Nodes: 3}, []Group{own}, []string{"# error: rp-filter: strict\n#   on 2 of 3 nodes: a and b\n#   evidence of a: all: 1\n#   remediation of a: set it\n"}, nil},
		"a plugin's commands": {
			printer: Printer{Program: "kubectl plainroute"}, groups: []Group{{Problem: found(Error, "A", "x", "", "plainroute doctor, kubectl plainroute status, the plainroute agent")}},
			want: []string{"remediation: kubectl plainroute doctor, kubectl plainroute status, the plainroute agent\n"}, not: []string{"kubectl kubectl"},
		},
		"no name":               {Printer{}, []Group{{Problem: found(Error, "A", "x", "", "kubectl plainroute status")}}, []string{"remediation: kubectl plainroute status\n"}, nil},
		"all":                   {Printer{All: true}, many("A", 12), []string{"number 11\n  remediation: fix it\n"}, []string{"more of"}},
		"evidence of its own":   {Printer{Nodes: 3}, []Group{own}, []string{"error: rp-filter: strict\n  on 2 of 3 nodes: a and b\n  evidence of a: all: 1\n  remediation of a: set it\n"}, nil},
		"one node":              {Printer{}, []Group{{Problem: own.Problem}}, []string{"error: rp-filter: strict\n  evidence: all: 1\n  remediation: set it\n"}, []string{"nodes"}},
		"color, and no command": {Printer{Color: true}, []Group{{Problem: found(Error, "A", "\x1b[2J", "", "")}}, []string{"\x1b[31merror\x1b[0m: A: \\u001b[2J\n"}, nil},
	} {
		var b strings.Builder
		c.printer.Print(&b, c.groups)
		for _, want := range c.want {
			if !strings.Contains(b.String(), want) {
				t.Errorf("%s: want %q in\n%s", name, want, b.String())
			}
		}
		for _, not := range c.not {
			if strings.Contains(b.String(), not) {
				t.Errorf("%s: %q is in\n%s", name, not, b.String())
			}
		}
	}
}

// A line uses all bytes up to the limit, and its message is cut between characters.
func TestLine(t *testing.T) {
	const limit, advice = 1024, "do it"
	room := limit - len(". Remediation: "+advice)
	for message, want := range map[string]int{
		strings.Repeat("x", room): limit, strings.Repeat("x", room+1): limit,
		strings.Repeat("é", room): limit - (room-3)%2, "x" + strings.Repeat("é", room): limit - (room-4)%2,
	} {
		line := found(Error, "A", message, "", advice).Line(0, limit)
		if cut := strings.Contains(line, "..."); len(line) != want || !utf8.ValidString(line) || cut != (len(message) > room) {
			t.Errorf("of %d bytes the line has %d, want %d: %q", len(message), len(line), want, line)
		}
	}
	if got, want := found(Error, "A", "x\ny", "", "do it").Line(2, limit), "x; y (and 2 more of this kind). Remediation: do it"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
