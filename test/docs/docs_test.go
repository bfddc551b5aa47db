// Package docs checks the pages of the project: links lead somewhere, and tests that a page names exist.
package docs

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"
)

const root = "../.."

// link is one of Markdown that stays in the project: [text](file#anchor).
var link = regexp.MustCompile(`\]\(([^)\s:]*)\)`)

func TestLinksLeadSomewhere(t *testing.T) {
	found := 0
	for path, text := range pages(t) {
		for _, match := range link.FindAllStringSubmatch(text, -1) {
			found++
			file, anchor, _ := strings.Cut(match[1], "#")
			target := path
			if file != "" {
				target = filepath.Join(filepath.Dir(path), file)
			}
			content, err := os.ReadFile(filepath.Join(root, target))
			if info, e := os.Stat(filepath.Join(root, target)); e == nil && info.IsDir() && anchor == "" {
				continue
			}
			if err != nil {
				t.Errorf("%s leads to %s, which is not there", path, match[1])
				continue
			}
			if anchor != "" && !slices.Contains(anchors(string(content)), anchor) {
				t.Errorf("%s leads to %s, which has no such heading", path, match[1])
			}
		}
	}
	if found == 0 {
		t.Error("no link was found")
	}
}

// A page that claims that a test makes something happen names the test.
func TestNamedTestsExist(t *testing.T) {
	exist := tests(t)
	found := 0
	for path, text := range pages(t) {
		for _, name := range regexp.MustCompile("`(Test[A-Z][A-Za-z0-9]*)`").FindAllStringSubmatch(text, -1) {
			found++
			if !exist[name[1]] {
				t.Errorf("%s names %s, which is not there", path, name[1])
			}
		}
	}
	if found == 0 {
		t.Error("no name was found")
	}
}

// Every page can be found from the README.
func TestReadmeLeadsToEachPage(t *testing.T) {
	readme, err := os.ReadFile(filepath.Join(root, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	for path := range pages(t) {
		if filepath.Dir(path) == "docs" && !strings.Contains(string(readme), "("+path+")") && !strings.Contains(string(readme), "("+path+"#") {
			t.Errorf("README.md does not lead to %s", path)
		}
	}
}

// pages are all of Markdown, by their path in the project.
func pages(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	walk(t, func(path string) {
		if filepath.Ext(path) != ".md" {
			return
		}
		text, err := os.ReadFile(filepath.Join(root, path))
		if err != nil {
			t.Fatal(err)
		}
		all[path] = string(text)
	})
	return all
}

// tests are the names of all test functions.
func tests(t *testing.T) map[string]bool {
	t.Helper()
	declared := regexp.MustCompile(`(?m)^func ((?:Test|Benchmark)[A-Z]\w*)\(`)
	all := map[string]bool{}
	walk(t, func(path string) {
		if !strings.HasSuffix(path, "_test.go") {
			return
		}
		text, err := os.ReadFile(filepath.Join(root, path))
		if err != nil {
			t.Fatal(err)
		}
		for _, match := range declared.FindAllSubmatch(text, -1) {
			all[string(match[1])] = true
		}
	})
	return all
}

// walk visits the files of the project, except built ones.
func walk(t *testing.T, visit func(path string)) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		if entry.IsDir() && (relative == "bin" || relative == ".git") {
			return filepath.SkipDir
		}
		if entry.Type().IsRegular() {
			visit(relative)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// anchors are those of headings, as Git's hosts make them: lower case, without punctuation, hyphens for spaces.
func anchors(page string) []string {
	var all []string
	fenced := false
	for line := range strings.Lines(page) {
		if strings.HasPrefix(line, "```") {
			fenced = !fenced
		}
		if fenced || !strings.HasPrefix(line, "#") {
			continue
		}
		heading := strings.ToLower(strings.TrimSpace(strings.TrimLeft(line, "#")))
		all = append(all, strings.Map(func(r rune) rune {
			switch {
			case r == ' ':
				return '-'
			case r == '-', r == '_', unicode.IsLetter(r), unicode.IsDigit(r):
				return r
			}
			return -1
		}, heading))
	}
	return all
}

// The map of packages in design.md has each one, and no other, with its imports of ours.
func TestMapOfPackages(t *testing.T) {
	const module = "github.com/plainroute/plainroute/"
	list := exec.CommandContext(t.Context(), "go", "list", "-f", `{{.ImportPath}} {{join .Imports " "}}`, "./...")
	list.Dir = root
	out, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
	imports := map[string][]string{}
	for line := range strings.Lines(string(out)) {
		words := strings.Fields(line)
		var ours []string
		for _, w := range words[1:] {
			if name, is := strings.CutPrefix(w, module); is {
				ours = append(ours, strings.TrimPrefix(name, "pkg/"))
			}
		}
		slices.Sort(ours)
		imports[strings.TrimPrefix(words[0], module)] = ours
	}
	page, err := os.ReadFile(filepath.Join(root, "docs", "design.md"))
	if err != nil {
		t.Fatal(err)
	}
	named := map[string]bool{}
	for line := range strings.Lines(string(page)) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if len(cells) != 3 {
			continue
		}
		for i, name := range regexp.MustCompile("`((?:cmd|pkg|test|hack)/[a-z0-9/]+|controllers)`").FindAllStringSubmatch(cells[0]+cells[1], -1) {
			ours, there := imports[name[1]]
			named[name[1]] = true
			if !there {
				t.Errorf("the map has %s, which is no package", name[1])
			}
			if cell := strings.TrimSpace(cells[2]); i == 0 && cell != "" && cell != "all" {
				want := strings.Split(cell, ", ")
				slices.Sort(want)
				if got := strings.Join(ours, ", "); got != strings.TrimPrefix(strings.Join(want, ", "), "none") {
					t.Errorf("%s imports %s, and the map lists %s", name[1], got, cell)
				}
			}
		}
	}
	for name := range imports {
		if !named[name] {
			t.Errorf("the map lacks %s", name)
		}
	}
}
