package status

import (
	"os"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/plainroute/plainroute/pkg/problem"
)

// harmless are Reasons of this node that never keep it from being ready.
var harmless = []problem.Reason{problem.HostUnseen, problem.NodeUpdateFailed, problem.ServicesUnread, problem.RouteKept, problem.RangeOverlap, problem.SubnetFull, problem.CNIPluginRefused, problem.TunnelConflict}

// Each Reason of this node fails at most one condition, and no Reason of a peer fails any.
func TestReasonsHaveOneCondition(t *testing.T) {
	for _, reason := range problem.Reasons() {
		want := 1
		if reason.Scope() == problem.OfOthers || slices.Contains(harmless, reason) {
			want = 0
		}
		found := 0
		for _, c := range conditions {
			if reason.Ready() == c {
				found++
			}
		}
		if found == 0 && reason.Ready() != "" {
			t.Errorf("%s fails an unknown condition %q", reason, reason.Ready())
		}
		if found != want {
			t.Errorf("%s is in %d conditions, want %d", reason, found, want)
		}
	}
}

func TestVerboseReadyz(t *testing.T) {
	s := newServer()
	s.Latest.Publish(&Result{Seen: true, Problems: []problem.Problem{
		{Subject: problem.Node("node1"), Reason: problem.SettingMissing, Message: "no br_netfilter", BlocksReady: true},
		{Subject: problem.Node("node1"), Reason: problem.SettingFailed, Message: "setting it:\nread-only", BlocksReady: true},
		{Reason: problem.CNIConflict, Message: "05-other.conflist goes first", BlocksReady: true},
		{Subject: problem.Node("node2"), Reason: problem.RouteConflict, Message: "a foreign route"},
		{Subject: problem.Node("node3"), Reason: problem.PodCIDRRefused, Message: "podCIDR of a peer"},
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
[+]tunnels ok
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
		t.Errorf("readyz returns\n%s", body)
	}
	s.Latest.Publish(example())
	code, _, body = ask(s, "GET", "/readyz?verbose=1")
	if code != 200 || strings.Count(body, "[+]") != len(conditions) || !strings.HasSuffix(body, "readyz check passed\n") {
		t.Errorf("readyz?verbose is %d\n%s", code, body)
	}
}

// Conditions that were not checked are Unknown.
func TestUnknownConditions(t *testing.T) {
	for _, r := range []*Result{
		(&Latest{}).Last(),
		{Problems: []problem.Problem{{Reason: problem.KernelFailed, Message: "reading routes", BlocksReady: true}}},
	} {
		for _, c := range r.Conditions() {
			own := slices.ContainsFunc(r.Problems, func(p problem.Problem) bool { return p.Reason == c.Reason })
			if own != (c.Status == metav1.ConditionFalse) || !own && c.Status == metav1.ConditionTrue && c.Name != "api-list" {
				t.Errorf("%v: %s is %s", r.Problems, c.Name, c.Status)
			}
		}
	}
}

// A router is not a Node, so the conditions of a Node are left out.
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
	for _, c := range conditions {
		var reasons []string
		for _, r := range problem.Reasons() {
			if r.Ready() == c {
				reasons = append(reasons, "`"+string(r)+"`")
			}
		}
		begin, end := "| `"+c+"` | ", " | "+strings.Join(reasons, ", ")+" |"
		if !slices.ContainsFunc(strings.Split(table, "\n"), func(row string) bool {
			return strings.HasPrefix(row, begin) && strings.HasSuffix(row, end)
		}) {
			t.Errorf("the page has no row %s...%s", begin, end)
		}
	}
}
