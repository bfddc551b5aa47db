package problem

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"path/filepath"
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

// A Reason that may block readiness fails a check of /readyz, and is solved on the node that reports it;
// such a Problem is an Event. A Problem of others is neither, because each node would report the same.
func TestReadinessAndEvents(t *testing.T) {
	for r, e := range registry {
		if blocks := e.blocks != never; blocks != (e.ready != "") || blocks && (e.scope == OfOthers || !e.event) {
			t.Errorf("%s blocks: %q, with the check %q, in scope %d, an Event: %t", r, e.blocks, e.ready, e.scope, e.event)
		}
		if e.event != (e.scope != OfOthers || r == PodNetworkReady) {
			t.Errorf("%s is an Event: %t, in scope %d", r, e.event, e.scope)
		}
	}
}

// Blocking follows the registry, and only it decides: no other package sets BlocksReady.
func TestBlocking(t *testing.T) {
	for _, c := range []struct {
		reason   Reason
		ask      bool
		blocks   bool
		severity Severity
	}{
		{CNIConflict, false, true, Error},
		{CNIConflict, true, true, Error},
		{KernelFailed, false, false, Warning},
		{KernelFailed, true, true, Error},
		{OffLink, true, false, Warning},
		{NotManaged, true, false, Info},
		{"Unregistered", true, false, Warning},
	} {
		if p := New(c.reason, Subject{}, "x").Blocking(c.ask); p.BlocksReady != c.blocks || p.Severity != c.severity {
			t.Errorf("%s, asked %t: it is %+v", c.reason, c.ask, p)
		}
	}
	files := 0
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		switch name := d.Name(); {
		case err != nil:
			return err
		case d.IsDir() && (name == "bin" || name == ".git"):
			return filepath.SkipDir
		case !strings.HasSuffix(name, ".go"), strings.HasSuffix(name, "_test.go"), path == "../../pkg/problem/problem.go":
			return nil
		}
		files++
		return noneSetsBlocksReady(t, path)
	})
	if err != nil || files < 200 {
		t.Errorf("%v, after %d files", err, files)
	}
}

func noneSetsBlocksReady(t *testing.T, path string) error {
	set := token.NewFileSet()
	file, err := parser.ParseFile(set, path, nil, 0)
	if err != nil {
		return err
	}
	ast.Inspect(file, func(n ast.Node) bool {
		var targets []ast.Expr
		switch n := n.(type) {
		case *ast.KeyValueExpr:
			targets = []ast.Expr{n.Key}
		case *ast.AssignStmt:
			targets = n.Lhs
		}
		for _, target := range targets {
			if selector, ok := target.(*ast.SelectorExpr); ok {
				target = selector.Sel
			}
			if name, ok := target.(*ast.Ident); ok && name.Name == "BlocksReady" {
				t.Errorf("%s sets BlocksReady; Blocking does, by the registry", set.Position(name.Pos()))
			}
		}
		return true
	})
	return nil
}

func TestIsEvent(t *testing.T) {
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
		{Problem{Reason: ProbeFailed}, false},
		{Problem{Reason: PodNetworkReady}, false}, // which no Problem has
	} {
		if got := c.p.IsEvent("own"); got != c.want {
			t.Errorf("%s is an Event: %t, want %t", c.p, got, c.want)
		}
	}
}
