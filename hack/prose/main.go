// Command prose counts the sentences that use the constructions which plain technical English
// avoids. It reads comments and user-visible strings of Go files, the project's Markdown, and the
// comments of its manifests and scripts.
//
//	prose                                       # a table of all packages
//	prose -list pkg/plan                        # each hit in one of them
//	prose -max 2 -max-strings 2 -max-docs 2     # exit code 1 if a share is above its maximum, in percent
//	prose /path/to/other/code                   # comments of other Go code: 0 to 1 % is usual
//
// rules.go has the constructions.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

// run returns the exit code.
func run(args []string, out, errs io.Writer) int {
	ok, err := command(args, out, errs)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 2
	case err != nil:
		fmt.Fprintln(errs, "prose:", err)
		return 2
	case !ok:
		return 1
	}
	return 0
}

// options are the flags.
type options struct {
	root   string
	list   string
	totals bool
	max    map[kind]*float64
}

// command reports whether every share is within its maximum.
func command(args []string, out, errs io.Writer) (bool, error) {
	o := options{max: map[kind]*float64{}}
	fs := flag.NewFlagSet("prose", flag.ContinueOnError)
	fs.SetOutput(errs)
	fs.StringVar(&o.root, "C", ".", "root folder of the project")
	fs.StringVar(&o.list, "list", "", "print each hit in this package or file, as file:line: rule: sentence; all prints all")
	fs.BoolVar(&o.totals, "totals", false, "leave out the packages: print the totals only")
	o.max[comment] = fs.Float64("max", 100, "maximum share of comment sentences of cmd, controllers and pkg, in percent")
	o.max[text] = fs.Float64("max-strings", 100, "maximum share of their user-visible strings, in percent")
	o.max[page] = fs.Float64("max-docs", 100, "maximum share of docs and READMEs, in percent")
	if err := fs.Parse(args); err != nil {
		return false, err
	}
	var found []sentence
	var err error
	if fs.NArg() > 0 {
		found, err = readGo(o.root, fs.Args(), comment)
	} else {
		found, err = readProject(o.root)
	}
	if err != nil {
		return false, err
	}
	if o.list != "" {
		list(out, found, o.list)
		return true, nil
	}
	totals := summarize(found)
	totals.print(out, o.totals)
	return totals.within(out, o.max), nil
}

// readmes are the pages outside docs. CHANGELOG.md is not among them: releases stay as they were.
var readmes = []string{
	"README.md", "CONTRIBUTING.md", "SECURITY.md", "charts/plainroute/README.md", "config/README.md", "test/e2e/README.md",
}

// readProject reads the Go code and the Markdown of the project.
func readProject(root string) ([]sentence, error) {
	all, err := readGo(root, []string{"cmd", "controllers", "pkg"}, comment, text)
	if err != nil {
		return nil, err
	}
	rest, err := readGo(root, []string{"test", "hack"}, other)
	if err != nil {
		return nil, err
	}
	all = append(all, rest...)
	pages, err := filepath.Glob(filepath.Join(root, "docs", "*.md"))
	if err != nil {
		return nil, err
	}
	for _, page := range readmes {
		pages = append(pages, filepath.Join(root, page))
	}
	for _, file := range pages {
		b, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		all = append(all, markdown(relative(root, file), string(b))...)
	}
	scripts, err := readScripts(root)
	return append(all, scripts...), err
}

// readScripts reads manifests, the Makefile, CI's script and those in hack.
func readScripts(root string) ([]sentence, error) {
	files := []string{"Makefile", "Dockerfile", ".golangci.yml", ".ci/run"}
	for _, folder := range []string{"charts", "config", "hack"} {
		err := filepath.WalkDir(filepath.Join(root, folder), func(path string, _ fs.DirEntry, err error) error {
			if ext := filepath.Ext(path); ext == ".yaml" || ext == ".sh" {
				files = append(files, relative(root, path))
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	var all []sentence
	for _, file := range files {
		b, err := os.ReadFile(filepath.Join(root, file))
		if err != nil {
			return nil, err
		}
		all = append(all, script(file, string(b))...)
	}
	return all, nil
}
