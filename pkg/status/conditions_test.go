package status

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/plainroute/plainroute/pkg/topology"
)

// harmless are Reasons of this node that never keep it from being ready.
var harmless = []topology.Reason{topology.HostUnseen, topology.NodeUpdateFailed, topology.RouteKept, topology.RangeOverlap, topology.SubnetFull, topology.CNIPluginRefused}

// What can be wrong with this node speaks against exactly one condition, and what can
// be wrong with peers against none.
func TestReasonsHaveOneCondition(t *testing.T) {
	for _, reason := range topology.Reasons() {
		want := 1
		if reason.Subject() == topology.OfOthers || slices.Contains(harmless, reason) {
			want = 0
		}
		found := 0
		for _, c := range criteria {
			if slices.Contains(c.reasons, reason) {
				found++
			}
		}
		if found != want {
			t.Errorf("%s is in %d conditions, want %d", reason, found, want)
		}
	}
}

func TestVerboseReadyz(t *testing.T) {
	s := newServer()
	s.Board.Publish(&Result{Seen: true, Problems: []topology.Problem{
		{Node: "node1", Reason: topology.SettingMissing, Detail: "no br_netfilter", Own: true},
		{Node: "node1", Reason: topology.SettingFailed, Detail: "setting it:\nread-only", Own: true},
		{Reason: topology.CNIConflict, Detail: "05-other.conflist goes first", Own: true},
		{Node: "node2", Reason: topology.RouteConflict, Detail: "a foreign route"},
		{Node: "node3", Reason: topology.PodCIDRRefused, Detail: "podCIDR of a peer"},
	}})
	code, _, body := ask(s, "GET", "/readyz?verbose")
	want := `[+]api-list ok
[+]node ok
[+]podcidr ok
[+]former-podcidr ok
[+]addresses ok
[-]settings failed: SettingMissing: no br_netfilter; setting it:; read-only
[+]kernel ok
[+]routes ok
[+]table ok
[+]bridge ok
[+]uncontested ok
[+]cni-plugins ok
[+]cni-config ok
[-]cni-first failed: CNIConflict: 05-other.conflist goes first
[+]cni-read ok
readyz check failed
`
	if code != 503 || body != want {
		t.Errorf("readyz?verbose is %d\n%s\nwant 503\n%s", code, body, want)
	}
	if _, _, body := ask(s, "GET", "/readyz"); strings.Count(body, "\n") != 3 { // a line each
		t.Errorf("readyz says\n%s", body)
	}
	s.Board.Publish(example())
	code, _, body = ask(s, "GET", "/readyz?verbose=1")
	if code != 200 || strings.Count(body, "[+]") != len(criteria) || !strings.HasSuffix(body, "readyz check passed\n") {
		t.Errorf("readyz?verbose is %d\n%s", code, body)
	}
}

// What was not looked at is neither well nor wrong.
func TestUnknownConditions(t *testing.T) {
	for _, r := range []*Result{
		(&Board{}).Last(),
		{Problems: []topology.Problem{{Reason: topology.KernelFailed, Detail: "reading routes", Own: true}}},
	} {
		for _, c := range r.Conditions() {
			own := slices.ContainsFunc(r.Problems, func(p topology.Problem) bool { return p.Reason == c.Reason })
			if own != (c.State == Wrong) || !own && c.State == Well && c.Name != "api-list" {
				t.Errorf("%v: %s is %s", r.Problems, c.Name, c.State)
			}
		}
	}
}

// A router is no Node: nothing of one is asked of it.
func TestRoutersConditions(t *testing.T) {
	var names []string
	for _, c := range (&Result{Seen: true, Host: Host{Router: true}}).Conditions() {
		names = append(names, c.Name)
	}
	if got, want := strings.Join(names, " "), "api-list settings kernel routes uncontested"; got != want {
		t.Errorf("a router's conditions are %s, want %s", got, want)
	}
}

// docs/events.md lists the conditions, and the reasons against each.
func TestPageOfConditions(t *testing.T) {
	content, err := os.ReadFile("../../docs/events.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(content), "## Readiness in detail")
	for _, c := range criteria {
		var reasons []string
		for _, r := range c.reasons {
			reasons = append(reasons, "`"+string(r)+"`")
		}
		begin, end := "| `"+c.name+"` | ", " | "+strings.Join(reasons, ", ")+" |"
		if !slices.ContainsFunc(strings.Split(table, "\n"), func(row string) bool {
			return strings.HasPrefix(row, begin) && strings.HasSuffix(row, end)
		}) {
			t.Errorf("the page has no row %s...%s", begin, end)
		}
	}
}
