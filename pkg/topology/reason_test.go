package topology

import (
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// Every Reason is classified, and says what to do in words that fit into an Event.
func TestReasonsAreComplete(t *testing.T) {
	var declared []Reason
	file, err := parser.ParseFile(token.NewFileSet(), "problem.go", nil, 0)
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
	if slices.Sort(declared); !slices.Equal(declared, Reasons()) {
		t.Errorf("problem.go declares %q, and the table has %q", declared, Reasons())
	}
	for _, r := range Reasons() {
		if advice := r.Advice(); len(advice) < 20 || len(advice) > 300 || !strings.HasSuffix(advice, ".") {
			t.Errorf("%s: the advice is %q, %d bytes", r, advice, len(advice))
		}
	}
}

func TestConcerns(t *testing.T) {
	for _, c := range []struct {
		p    Problem
		want bool
	}{
		{Problem{Node: "peer", Reason: PodCIDRMissing}, false},
		{Problem{Node: "peer", Reason: PodCIDRRefused}, false},
		{Problem{Node: "peer", Reason: OffLink}, false},
		{Problem{Node: "peer", Reason: RouteFailed}, false},
		{Problem{Node: "peer", Reason: PodCIDRDisputed}, false},
		{Problem{Reason: PruneHeld}, false},
		{Problem{Node: "peer", Reason: RouteConflict}, true},
		{Problem{Node: "own", Reason: PodCIDRMissing, Own: true}, true},
		{Problem{Node: "own", Reason: AddressMalformed}, true},
		{Problem{Reason: KernelFailed, Own: true}, true},
		{Problem{Reason: SettingMissing}, true},
	} {
		if got := c.p.Concerns("own"); got != c.want {
			t.Errorf("%s concerns us: %t, want %t", c.p, got, c.want)
		}
	}
}
