package main

import (
	"go/ast"
	"go/token"
	"go/types"
	"slices"
)

// A finder walks the functions of one file and notes the mutants that they have.
type finder struct {
	*source
	file    *sourceFile
	fn      string
	results *types.Tuple // of the function, or function literal, that is walked
	found   []*mutant
}

// mutants returns those of the whole package, in the order of its code.
func (s *source) mutants() []*mutant {
	var all []*mutant
	same := map[string]int{}
	for _, file := range s.files {
		f := &finder{source: s, file: file}
		for _, decl := range file.ast.Decls {
			if fn, ok := decl.(*ast.FuncDecl); ok && fn.Body != nil {
				f.fn = functionName(fn)
				f.results = results(s.info.Defs[fn.Name].Type())
				f.block(fn.Body.List)
			}
		}
		for _, m := range f.found {
			same[m.key("")]++
			m.nth = same[m.key("")]
		}
		all = append(all, f.found...)
	}
	for i, m := range all {
		m.id = i + 1
	}
	return all
}

// results are those of a function's type.
func results(t types.Type) *types.Tuple {
	if signature, ok := t.(*types.Signature); ok {
		return signature.Results()
	}
	return nil
}

// note adds a mutant of a node: the code before and after, and its operator.
func (f *finder) note(node ast.Node, operator, after, prefix, suffix string) {
	at := f.fset.Position(node.Pos())
	f.found = append(f.found, &mutant{
		file: f.file.name, fn: f.fn, line: at.Line, operator: operator, before: oneLine(node), after: after,
		start: at.Offset, end: f.fset.Position(node.End()).Offset, prefix: prefix, suffix: suffix,
	})
}

// block walks statements, each of which can be left out.
func (f *finder) block(list []ast.Stmt) {
	for _, stmt := range list {
		if f.removable(stmt) {
			f.note(stmt, "remove", "", "if !mut__(ID__) { ", " }")
		}
		f.walk(stmt)
	}
}

// removable reports whether a statement can be left out, and whether a test could see it. Locks are
// left alone: if one is removed, only the race detector would see it.
func (f *finder) removable(stmt ast.Stmt) bool {
	switch stmt := stmt.(type) {
	case *ast.ExprStmt:
		call, ok := stmt.X.(*ast.CallExpr)
		return ok && !f.locks(call) && oneLine(call.Fun) != "panic"
	case *ast.DeferStmt:
		return !f.locks(stmt.Call)
	case *ast.AssignStmt:
		blank := func(e ast.Expr) bool { return oneLine(e) == "_" }
		return stmt.Tok != token.DEFINE && slices.ContainsFunc(stmt.Lhs, func(e ast.Expr) bool { return !blank(e) })
	case *ast.IncDecStmt, *ast.SendStmt:
		return true
	case *ast.BranchStmt:
		return stmt.Tok == token.BREAK || stmt.Tok == token.CONTINUE
	}
	return false
}

func (f *finder) locks(call *ast.CallExpr) bool {
	sel, ok := call.Fun.(*ast.SelectorExpr)
	return ok && slices.Contains([]string{"Lock", "Unlock", "RLock", "RUnlock"}, sel.Sel.Name)
}

// walk visits the children of a node.
func (f *finder) walk(node ast.Node) {
	ast.Inspect(node, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.BlockStmt:
			f.block(n.List)
			return false
		case *ast.CaseClause:
			f.cases(n)
			return false
		case *ast.CommClause:
			if n.Comm != nil {
				f.walk(n.Comm)
			}
			f.block(n.Body)
			return false
		case *ast.FuncLit:
			outer := f.results
			f.results = results(f.info.TypeOf(n))
			f.block(n.Body.List)
			f.results = outer
			return false
		case *ast.IfStmt:
			f.condition(n.Cond)
		case *ast.ForStmt:
			if n.Cond != nil {
				f.condition(n.Cond)
			}
		case *ast.ReturnStmt:
			f.returns(n)
		case *ast.CallExpr:
			f.call(n)
		case *ast.CompositeLit:
			f.literal(n)
		case *ast.Ident:
			f.ident(n)
		case ast.Expr:
			return f.expression(n)
		}
		return true
	})
}

// cases walks a case of a switch; one without a tag compares conditions.
func (f *finder) cases(c *ast.CaseClause) {
	for _, e := range c.List {
		if t := f.info.Types[e]; !t.IsType() && t.Type != nil && isBool(t.Type) {
			f.condition(e)
		}
		f.walk(e)
	}
	f.block(c.Body)
}

// condition negates conditions, except comparisons and compound ones: expression does those.
func (f *finder) condition(e ast.Expr) {
	switch e := e.(type) {
	case *ast.CallExpr, *ast.SelectorExpr, *ast.IndexExpr, *ast.TypeAssertExpr, *ast.StarExpr:
		f.negate(e)
	case *ast.Ident:
		if e.Name != "true" && e.Name != "false" {
			f.negate(e)
		}
	}
}

func (f *finder) negate(e ast.Expr) {
	if f.isConst(e) || !isBool(f.info.TypeOf(e)) {
		return
	}
	f.note(e, "negate", negated(e), "((", ") != mut__(ID__))")
}

// negated is how a person would write the opposite of an expression.
func negated(e ast.Expr) string {
	if b, ok := e.(*ast.BinaryExpr); ok && opposite[b.Op] != token.ILLEGAL {
		return oneLine(b.X) + " " + opposite[b.Op].String() + " " + oneLine(b.Y)
	}
	return "!" + oneLine(e)
}

var (
	opposite = map[token.Token]token.Token{
		token.EQL: token.NEQ, token.NEQ: token.EQL, token.LSS: token.GEQ, token.LEQ: token.GTR, token.GTR: token.LEQ, token.GEQ: token.LSS,
	}
	boundary   = map[token.Token]token.Token{token.LSS: token.LEQ, token.LEQ: token.LSS, token.GTR: token.GEQ, token.GEQ: token.GTR}
	logic      = map[token.Token]token.Token{token.LAND: token.LOR, token.LOR: token.LAND}
	arithmetic = map[token.Token]token.Token{
		token.ADD: token.SUB, token.SUB: token.ADD, token.MUL: token.ADD, token.QUO: token.MUL, token.REM: token.MUL,
		token.AND: token.OR, token.OR: token.AND, token.AND_NOT: token.AND, token.SHL: token.SHR, token.SHR: token.SHL,
	}
)

// expression mutates operators. It reports whether to walk on.
func (f *finder) expression(e ast.Expr) bool {
	if f.isConst(e) {
		return false
	}
	switch e := e.(type) {
	case *ast.UnaryExpr:
		if e.Op == token.NOT {
			f.condition(e.X)
		}
	case *ast.BinaryExpr:
		f.binary(e)
	}
	return true
}

func (f *finder) binary(e *ast.BinaryExpr) {
	swapped := func(op token.Token) string { return f.text(e.X) + " " + op.String() + " " + f.text(e.Y) }
	after := func(op token.Token) string { return oneLine(e.X) + " " + op.String() + " " + oneLine(e.Y) }
	switch {
	case opposite[e.Op] != token.ILLEGAL:
		f.negate(e)
		if op := boundary[e.Op]; op != token.ILLEGAL {
			f.note(e, "boundary", after(op), "(mut__(ID__) && ("+swapped(op)+") || !mut__(ID__) && (", "))")
		}
	case logic[e.Op] != token.ILLEGAL:
		f.condition(e.X)
		f.condition(e.Y)
		f.note(e, "logic", after(logic[e.Op]), "(mut__(ID__) && ("+swapped(logic[e.Op])+") || !mut__(ID__) && (", "))")
	case arithmetic[e.Op] != token.ILLEGAL && f.isInteger(e) && !calls(e):
		// Both are computed, and one is taken.
		op := arithmetic[e.Op]
		f.note(e, "arithmetic", after(op), "mutPick__(ID__, "+swapped(op)+", ", ")")
	}
}

// calls reports whether an expression calls a function, which must not be called twice.
func calls(e ast.Expr) (found bool) {
	ast.Inspect(e, func(n ast.Node) bool {
		if call, ok := n.(*ast.CallExpr); ok && !slices.Contains([]string{"len", "int", "uint32", "uint16", "byte", "cap"}, oneLine(call.Fun)) {
			found = true
		}
		return true
	})
	return found
}

// ident flips true and false.
func (f *finder) ident(e *ast.Ident) {
	if f.info.Uses[e] == types.Universe.Lookup("true") || f.info.Uses[e] == types.Universe.Lookup("false") {
		f.note(e, "flip", map[string]string{"true": "false", "false": "true"}[e.Name], "(", " != mut__(ID__))")
	}
}

// returns replaces returned values by zero values.
func (f *finder) returns(stmt *ast.ReturnStmt) {
	if len(stmt.Results) != f.results.Len() {
		return
	}
	for i, e := range stmt.Results {
		want := f.results.At(i).Type()
		if isBool(want) {
			f.condition(e)
			continue
		}
		f.zero(e, "return", want)
	}
}

// call leaves out appended values.
func (f *finder) call(call *ast.CallExpr) {
	if oneLine(call.Fun) != "append" || len(call.Args) < 2 || call.Ellipsis.IsValid() {
		return
	}
	slice, ok := f.info.TypeOf(call).Underlying().(*types.Slice)
	if !ok {
		return
	}
	for _, arg := range call.Args[1:] {
		f.zero(arg, "argument", slice.Elem())
	}
}

// literal leaves out fields and elements of composite literals.
func (f *finder) literal(lit *ast.CompositeLit) {
	for _, e := range lit.Elts {
		if kv, ok := e.(*ast.KeyValueExpr); ok {
			e = kv.Value
		}
		if inner, ok := e.(*ast.CompositeLit); ok && inner.Type == nil {
			continue // its type is left out, and can't stand alone
		}
		f.zero(e, "field", f.info.TypeOf(e))
	}
}

// zero replaces an expression by the zero value of its type.
func (f *finder) zero(e ast.Expr, operator string, want types.Type) {
	have := f.info.TypeOf(e)
	if lit, ok := e.(*ast.CompositeLit); ok && len(lit.Elts) == 0 || f.isConst(e) || have == nil || f.info.Types[e].IsNil() {
		return
	}
	if _, several := have.(*types.Tuple); several {
		return
	}
	switch {
	case isBool(have):
		f.condition(e)
	case types.Identical(have, want):
		f.note(e, operator, "zero value", "mutZero__(ID__, ", ")")
	case want.String() == "error":
		f.note(e, operator, "nil", "mutZero__[error](ID__, ", ")")
	}
}

func (f *finder) isConst(e ast.Expr) bool { return f.info.Types[e].Value != nil }

func (f *finder) isInteger(e ast.Expr) bool {
	b, ok := f.info.TypeOf(e).Underlying().(*types.Basic)
	return ok && b.Info()&types.IsInteger != 0
}

func isBool(t types.Type) bool {
	b, ok := t.Underlying().(*types.Basic)
	return ok && b.Info()&types.IsBoolean != 0
}

// text is the code of a node as it stands.
func (f *finder) text(n ast.Node) string {
	return string(f.file.text[f.fset.Position(n.Pos()).Offset:f.fset.Position(n.End()).Offset])
}
