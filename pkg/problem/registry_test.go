package problem

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// Every Reason is in the registry, and those of agents have a remediation that fits into an Event.
func TestReasonsAreComplete(t *testing.T) {
	var declared []Reason
	file, err := parser.ParseFile(token.NewFileSet(), "reason.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		if kind, ok := spec.Type.(*ast.Ident); ok && kind.Name == "Reason" {
			value, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
			if err != nil {
				t.Fatal(err)
			}
			declared = append(declared, Reason(value))
		}
		return true
	})
	slices.Sort(declared)
	if listed := slices.Sorted(maps.Keys(registry)); !slices.Equal(declared, listed) {
		t.Errorf("reason.go declares %q, and the registry has %q", declared, listed)
	}
	for _, r := range Reasons() {
		if text := r.Remediation(); len(text) < 20 || len(text) > 300 || !strings.HasSuffix(text, ".") {
			t.Errorf("%s: the remediation is %q, %d bytes", r, text, len(text))
		}
	}
}

func TestConcerns(t *testing.T) {
	for _, c := range []struct {
		p    Problem
		want bool
	}{
		{Problem{Subject: Node("peer"), Reason: PodCIDRMissing}, false},
		{Problem{Subject: Node("peer"), Reason: PodCIDRRefused}, false},
		{Problem{Subject: Node("peer"), Reason: OffLink}, false},
		{Problem{Subject: Node("peer"), Reason: RouteFailed}, false},
		{Problem{Subject: Node("peer"), Reason: PodCIDRDisputed}, false},
		{Problem{Reason: PruneHeld}, false},
		{Problem{Subject: Node("peer"), Reason: RouteConflict}, true},
		{Problem{Subject: Node("own"), Reason: PodCIDRMissing, BlocksReady: true}, true},
		{Problem{Subject: Node("own"), Reason: AddressMalformed}, true},
		{Problem{Reason: KernelFailed, BlocksReady: true}, true},
		{Problem{Reason: SettingMissing}, true},
	} {
		if got := c.p.Concerns("own"); got != c.want {
			t.Errorf("%s concerns us: %t, want %t", c.p, got, c.want)
		}
	}
}
