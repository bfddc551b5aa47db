package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// readGo reads the Go files of the folders. The first kind is that of comments; a second one, if
// given, is that of strings.
func readGo(root string, folders []string, kinds ...kind) ([]sentence, error) {
	var all []sentence
	for _, folder := range folders {
		if !filepath.IsAbs(folder) {
			folder = filepath.Join(root, folder)
		}
		err := filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if entry.IsDir() && path != folder && slices.Contains([]string{"testdata", "vendor", "third_party"}, entry.Name()) {
				return filepath.SkipDir
			}
			if !entry.Type().IsRegular() || filepath.Ext(path) != ".go" {
				return nil
			}
			found, err := goFile(root, path, kinds)
			all = append(all, found...)
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return all, nil
}

func goFile(root, path string, kinds []kind) ([]sentence, error) {
	set := token.NewFileSet()
	file, err := parser.ParseFile(set, path, nil, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil || ast.IsGenerated(file) {
		return nil, err
	}
	p := &paragraph{kind: kinds[0], file: relative(root, path)}
	for _, group := range file.Comments {
		comments(p, set, group)
	}
	if len(kinds) > 1 && !strings.HasSuffix(path, "_test.go") {
		p.kind = kinds[1]
		literals(p, set, file)
	}
	return p.done, nil
}

var (
	directive = regexp.MustCompile(`^//([a-z]+:|nolint|\s*\+(build|kubebuilder|optional|k8s|genclient))`)
	item      = regexp.MustCompile(`^([-*•+]|\d+[.)])\s+`)
)

// comments adds the sentences of a comment, without directives and indented code.
func comments(p *paragraph, set *token.FileSet, group *ast.CommentGroup) {
	for _, c := range group.List {
		if directive.MatchString(c.Text) {
			continue
		}
		line := set.Position(c.Pos()).Line
		body, block := strings.CutPrefix(c.Text, "/*")
		if block {
			body = strings.TrimSuffix(body, "*/")
		} else {
			body = strings.TrimPrefix(strings.TrimPrefix(c.Text, "//"), " ")
		}
		for i, s := range strings.Split(body, "\n") {
			trimmed := strings.TrimSpace(s)
			code := !block && (strings.HasPrefix(s, "\t") || strings.HasPrefix(s, "   ")) && !item.MatchString(trimmed)
			if trimmed == "" || code || item.MatchString(trimmed) {
				p.end()
			}
			if !code {
				p.add(line+i, item.ReplaceAllString(trimmed, ""))
			}
		}
	}
	p.end()
}

// literals adds the string literals with a space in them; those added to each other are one.
func literals(p *paragraph, set *token.FileSet, file *ast.File) {
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.ImportSpec:
			return false
		case *ast.Field:
			n.Tag = nil
		case *ast.BinaryExpr:
			if s, ok := joined(n); ok {
				literal(p, set.Position(n.Pos()).Line, s)
				return false
			}
		case *ast.BasicLit:
			if s, ok := joined(n); ok {
				literal(p, set.Position(n.Pos()).Line, s)
			}
		}
		return true
	})
}

// joined returns the text of a literal, or of a sum of them.
func joined(e ast.Expr) (string, bool) {
	switch e := e.(type) {
	case *ast.BasicLit:
		s, err := strconv.Unquote(e.Value)
		return s, err == nil && e.Kind == token.STRING
	case *ast.BinaryExpr:
		x, one := joined(e.X)
		y, two := joined(e.Y)
		return x + y, one && two && e.Op == token.ADD
	}
	return "", false
}

func literal(p *paragraph, line int, s string) {
	if !strings.Contains(strings.TrimSpace(s), " ") {
		return
	}
	for i, part := range strings.Split(s, "\n") {
		if strings.TrimSpace(part) == "" {
			p.end()
		}
		p.add(line+i, part)
	}
	p.end()
}

// markdown returns the sentences of a page; those of a table stand in cells. Code is left out.
func markdown(file, content string) []sentence {
	p := &paragraph{kind: page, file: file}
	fenced := false
	for i, s := range strings.Split(content, "\n") {
		trimmed := strings.TrimSpace(s)
		switch fence := strings.HasPrefix(trimmed, "```"); {
		case fence, fenced:
			p.end()
			fenced = fenced != fence
		case trimmed == "", strings.HasPrefix(trimmed, "<!--"):
			p.end()
		case strings.HasPrefix(trimmed, "|"):
			for cell := range strings.SplitSeq(trimmed, "|") {
				p.end()
				p.add(i+1, cell)
			}
		case strings.HasPrefix(trimmed, "#"):
			p.end()
			p.add(i+1, strings.TrimLeft(trimmed, "# "))
			p.end()
		default:
			if item.MatchString(trimmed) {
				p.end()
			}
			p.add(i+1, item.ReplaceAllString(trimmed, ""))
		}
	}
	p.end()
	return p.done
}

// annotation is a value of a manifest that an operator reads.
var annotation = regexp.MustCompile(`^(?:summary|description|message|messageExpression):\s*(?:[>|]-?$)?(.*)`)

// script returns the sentences of the comments of a manifest, a Makefile or a shell script, and of a
// manifest's descriptions.
func script(file, content string) []sentence {
	p := &paragraph{kind: page, file: file}
	for i, s := range strings.Split(content, "\n") {
		trimmed := strings.TrimSpace(s)
		if said := annotation.FindStringSubmatch(trimmed); said != nil {
			p.end()
			p.add(i+1, strings.Trim(said[1], `"'`))
			p.end()
			continue
		}
		body, is := strings.CutPrefix(trimmed, "#")
		if body = strings.TrimLeft(body, "#- "); !is || body == "" || strings.HasPrefix(body, "!") {
			p.end()
			continue
		}
		p.add(i+1, body)
	}
	p.end()
	return p.done
}

func relative(root, path string) string {
	if r, err := filepath.Rel(root, path); err == nil && filepath.IsLocal(r) {
		return r
	}
	return path
}
