package main

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/printer"
	"go/token"
	"strings"
)

// A mutant is one small fault put into the code. All mutants of a package are compiled into one test
// binary, each behind a switch: what stands before and after [start, end) of its file makes it.
type mutant struct {
	id            int
	file, fn      string // base name of the file, and the function
	line          int
	operator      string
	before, after string // the code, on one line
	nth           int    // of those with the same file, function, operator and code
	start, end    int    // offsets in the file
	prefix        string // goes before start, with ID__ for the id
	suffix        string // goes after end, with ID__ for the id
}

// key names a mutant for as long as its function has that code, wherever that moves.
func (m *mutant) key(dir string) string {
	key := fmt.Sprintf("%s/%s %s: %s: %s", dir, m.file, m.fn, m.operator, m.before)
	if m.nth > 1 {
		key += fmt.Sprintf(" #%d", m.nth)
	}
	return key
}

// diff shows what a mutant changes.
func (m *mutant) diff(dir string) string {
	return fmt.Sprintf("%s/%s:%d %s: %s\n\t- %s\n\t+ %s", dir, m.file, m.line, m.fn, m.operator, m.before, m.after)
}

// oneLine prints a node without comments and newlines.
func oneLine(node ast.Node) string {
	var b bytes.Buffer
	if err := (&printer.Config{Mode: printer.RawFormat}).Fprint(&b, token.NewFileSet(), node); err != nil {
		return fmt.Sprintf("%T", node)
	}
	return strings.Join(strings.Fields(b.String()), " ")
}

// functionName returns the name of a function with its receiver's type.
func functionName(fn *ast.FuncDecl) string {
	if fn.Recv == nil || len(fn.Recv.List) == 0 {
		return fn.Name.Name
	}
	receiver := fn.Recv.List[0].Type
	if star, ok := receiver.(*ast.StarExpr); ok {
		receiver = star.X
	}
	if index, ok := receiver.(*ast.IndexExpr); ok {
		receiver = index.X
	}
	return oneLine(receiver) + "." + fn.Name.Name
}
