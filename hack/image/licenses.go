package main

import (
	"bytes"
	"cmp"
	"context"
	"debug/buildinfo"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"

	"golang.org/x/mod/module"
)

// licenseFile matches the names under which modules keep the texts that must go along with
// binaries.
var licenseFile = regexp.MustCompile(`(?i)^(licen[cs]e|copying|copyright|notice|patents)([-._].*)?$`)

// licenses gathers the texts of all modules that the binaries are made of, from Go's module cache
// and from GOROOT. A text that several share is there once. Modules without a version are the
// checkout's own, whose license its maker has to add.
func licenses(layers [][]content) ([]byte, error) {
	holders := map[string][]string{} // by text
	for _, m := range modulesOf(layers) {
		texts, err := licensesIn(m)
		if err != nil {
			return nil, fmt.Errorf("gathering licenses of %s: %w", m, err)
		}
		for _, text := range texts {
			holders[text] = append(holders[text], m.String())
		}
	}
	var texts []string
	for text := range holders {
		texts = append(texts, text)
	}
	slices.SortFunc(texts, func(a, b string) int { return cmp.Or(slices.Compare(holders[a], holders[b]), cmp.Compare(a, b)) })
	var b bytes.Buffer
	b.WriteString("The programs in this image are made of the Go modules below, among others, under these licenses.\n")
	for _, text := range texts {
		fmt.Fprintf(&b, "\n%s\n%s\n\n%s\n", strings.Repeat("=", 80), strings.Join(holders[text], "\n"), strings.TrimSpace(text))
	}
	return b.Bytes(), nil
}

// modulesOf are those that binaries have in their build information, in order; the standard library is one of them.
func modulesOf(layers [][]content) []module.Version {
	var all []module.Version
	add := func(m *debug.Module) {
		if m.Replace != nil {
			m = m.Replace
		}
		if m.Version != "" && m.Version != "(devel)" {
			all = append(all, module.Version{Path: m.Path, Version: m.Version})
		}
	}
	for _, f := range slices.Concat(layers...) {
		info, err := buildinfo.Read(bytes.NewReader(f.bytes))
		if err != nil {
			continue
		}
		all = append(all, module.Version{Path: "stdlib", Version: info.GoVersion})
		add(&info.Main)
		for _, m := range info.Deps {
			add(m)
		}
	}
	slices.SortFunc(all, func(a, b module.Version) int {
		return cmp.Or(cmp.Compare(a.Path, b.Path), cmp.Compare(a.Version, b.Version))
	})
	return slices.Compact(all)
}

// licensesIn reads the licenses of a module.
func licensesIn(m module.Version) ([]string, error) {
	dir, err := folderOf(m)
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var texts []string
	for _, entry := range entries {
		if !entry.Type().IsRegular() || !licenseFile.MatchString(entry.Name()) || filepath.Ext(entry.Name()) == ".go" {
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, entry.Name()))
		if err != nil {
			return nil, err
		}
		texts = append(texts, string(text))
	}
	if len(texts) == 0 {
		return nil, fmt.Errorf("there is none in %s", dir)
	}
	return texts, nil
}

func folderOf(m module.Version) (string, error) {
	if m.Path == "stdlib" {
		return goEnv("GOROOT")
	}
	path, err := module.EscapePath(m.Path)
	if err != nil {
		return "", err
	}
	version, err := module.EscapeVersion(m.Version)
	if err != nil {
		return "", err
	}
	cache, err := goEnv("GOMODCACHE")
	return filepath.Join(cache, filepath.FromSlash(path)+"@"+version), err
}

func goEnv(name string) (string, error) {
	out, err := exec.CommandContext(context.Background(), "go", "env", name).Output()
	if err != nil {
		return "", fmt.Errorf("asking Go for %s: %w", name, err)
	}
	return strings.TrimSpace(string(out)), nil
}
