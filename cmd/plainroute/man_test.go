package main

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/spf13/cobra/doc"
)

// manFolder has the man pages, which are generated from the commands: `make man`.
const manFolder = "../../docs/man"

// Each command has a man page with the text of --help.
func TestManPages(t *testing.T) {
	fresh := t.TempDir()
	if err := generateMan(fresh); err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.RemoveAll(manFolder); err != nil {
			t.Fatal(err)
		}
		if err := os.CopyFS(manFolder, os.DirFS(fresh)); err != nil {
			t.Fatal(err)
		}
	}
	want, have := pagesIn(t, fresh), pagesIn(t, manFolder)
	if !slices.Equal(want, have) {
		t.Fatalf("docs/man has %v, the commands are %v; run `make man`", have, want)
	}
	for _, page := range want {
		if !bytes.Equal(read(t, filepath.Join(fresh, page)), read(t, filepath.Join(manFolder, page))) {
			t.Errorf("docs/man/%s differs from the command; run `make man`", page)
		}
	}
}

// generateMan writes the pages. Their date is a fixed one, so that a page changes with its command
// alone.
func generateMan(folder string) error {
	root := rootCommand()
	root.Version = "" // differs by build
	root.DisableAutoGenTag = true
	day := time.Date(2026, time.November, 1, 0, 0, 0, 0, time.UTC)
	return doc.GenManTreeFromOpts(root, doc.GenManTreeOptions{
		Path: folder, CommandSeparator: "-",
		Header: &doc.GenManHeader{Section: "1", Source: "plainroute", Manual: "plainroute", Date: &day},
	})
}

func pagesIn(t *testing.T, folder string) []string {
	t.Helper()
	entries, err := os.ReadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
