package docs

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// Each target of make that a page names exists.
func TestNamedTargetsExist(t *testing.T) {
	makefile := readFile(t, "Makefile")
	var targets []string
	for _, match := range regexp.MustCompile(`(?m)^([a-z0-9-]+):`).FindAllStringSubmatch(makefile, -1) {
		targets = append(targets, match[1])
	}
	found := 0
	for path, text := range pages(t) {
		for _, match := range regexp.MustCompile(`(?m)^(?:\$ )?make ([a-z][a-z0-9-]+)`).FindAllStringSubmatch(code(text), -1) {
			found++
			if !slices.Contains(targets, match[1]) {
				t.Errorf("%s names make %s, which is not a target", path, match[1])
			}
		}
	}
	if found == 0 {
		t.Error("no target was found")
	}
}

// Each Go file and each script of tests that a page names exists.
func TestNamedFilesExist(t *testing.T) {
	there := map[string]bool{}
	root := filepath.Join("..", "..")
	err := filepath.WalkDir(root, func(_ string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == ".git" || d.Name() == "bin"):
			return filepath.SkipDir
		}
		there[d.Name()] = true
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for page, text := range pages(t) {
		for _, match := range regexp.MustCompile(`[\w./-]+\.(?:go|txtar)\b`).FindAllString(code(text), -1) {
			switch found++; {
			case strings.Contains(match, "NAME"), strings.Contains(match, "github.com"), strings.Contains(match, "/vendor/"), strings.HasPrefix(match, "_"), there[filepath.Base(match)]:
			default:
				t.Errorf("%s names %s, which does not exist", page, match)
			}
		}
	}
	if found == 0 {
		t.Error("no file was found")
	}
}

// code returns the fenced lines and the code spans of a page, one a line.
func code(page string) string {
	var lines []string
	fenced := false
	for line := range strings.Lines(page) {
		switch {
		case strings.HasPrefix(line, "```"):
			fenced = !fenced
		case fenced:
			lines = append(lines, line)
		default:
			for _, span := range regexp.MustCompile("`([^`]*)`").FindAllStringSubmatch(line, -1) {
				lines = append(lines, span[1]+"\n")
			}
		}
	}
	return strings.Join(lines, "")
}

// flags.md has each flag of the agent's man page, and no other.
func TestTableOfFlags(t *testing.T) {
	there := flags(regexp.MustCompile(`(?m)^(?:\\fB-\w\\fP, )?\\fB--([a-z0-9-]+)\\fP`), readFile(t, "docs", "man", "plainroute-agent.1"))
	there = slices.DeleteFunc(there, func(name string) bool { return name == "help" })
	var named []string
	for _, row := range regexp.MustCompile("(?m)^\\| (`--[^|]*) \\|").FindAllStringSubmatch(readFile(t, "docs", "flags.md"), -1) {
		named = append(named, flags(regexp.MustCompile("`--([a-z0-9-]+)`"), row[1])...)
	}
	slices.Sort(named)
	if len(there) == 0 || !slices.Equal(there, named) {
		t.Errorf("the agent has the flags\n%v\nand docs/flags.md\n%v", there, named)
	}
}

func flags(pattern *regexp.Regexp, text string) []string {
	var names []string
	for _, match := range pattern.FindAllStringSubmatch(text, -1) {
		names = append(names, match[1])
	}
	slices.Sort(names)
	return names
}

func readFile(t *testing.T, path ...string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(append([]string{root}, path...)...))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
