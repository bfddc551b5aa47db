package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path/filepath"
)

// A source is one package: its files and their types.
type source struct {
	dir, path, name string
	fset            *token.FileSet
	files           []*sourceFile
	info            *types.Info
	importer        types.Importer
}

type sourceFile struct {
	name string // base name
	text []byte
	ast  *ast.File
}

// listed is the output of go list for a package.
type listed struct {
	Dir, ImportPath, Name, Export string
	GoFiles                       []string
	DepOnly, Standard             bool
}

// load reads the package in the given folder, as in ./pkg/plan, and type-checks it.
func load(ctx context.Context, pkg string) (*source, error) {
	cmd := exec.CommandContext(ctx, "go", "list", "-export", "-deps", "-trimpath", "-json=Dir,ImportPath,Name,Export,GoFiles,DepOnly,Standard", pkg,
		"os", "strconv", "sync/atomic", "syscall") // of the switches
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("listing %s: %w", pkg, err)
	}
	exports := map[string]string{}
	var target listed
	for decoder := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, fmt.Errorf("reading go list's answer: %w", err)
		}
		exports[p.ImportPath] = p.Export
		if !p.DepOnly && !p.Standard {
			target = p
		}
	}
	s := &source{dir: target.Dir, path: target.ImportPath, name: target.Name, fset: token.NewFileSet()}
	s.importer = importer.ForCompiler(s.fset, "gc", func(path string) (io.ReadCloser, error) { return os.Open(exports[path]) })
	for _, name := range target.GoFiles {
		text, err := os.ReadFile(filepath.Join(s.dir, name))
		if err != nil {
			return nil, err
		}
		if err := s.add(name, text); err != nil {
			return nil, err
		}
	}
	if errs := s.check(); len(errs) > 0 {
		return nil, fmt.Errorf("type-checking %s: %w", pkg, errs[0])
	}
	return s, nil
}

func (s *source) add(name string, text []byte) error {
	file, err := parser.ParseFile(s.fset, name, text, parser.SkipObjectResolution)
	if err != nil {
		return fmt.Errorf("parsing: %w", err)
	}
	s.files = append(s.files, &sourceFile{name, text, file})
	return nil
}

// check finds the types of all expressions, and returns what does not compile.
func (s *source) check() []types.Error {
	var errs []types.Error
	s.info = &types.Info{
		Types: map[ast.Expr]types.TypeAndValue{}, Uses: map[*ast.Ident]types.Object{}, Defs: map[*ast.Ident]types.Object{},
		Selections: map[*ast.SelectorExpr]*types.Selection{},
	}
	config := types.Config{Importer: s.importer, Error: func(err error) {
		if e := (types.Error{}); errors.As(err, &e) && !e.Soft {
			errs = append(errs, e)
		} else if errors.As(err, &e) && len(errs) == 0 {
			errs = append(errs, e)
		}
	}}
	var files []*ast.File
	for _, f := range s.files {
		files = append(files, f.ast)
	}
	_, _ = config.Check(s.path, s.fset, files, s.info) // the errors are in errs
	return errs
}
