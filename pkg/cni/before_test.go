package cni

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/plainroute/plainroute/test/testutil"
)

// Before returns the configs that a runtime would load instead of ours.
func TestBefore(t *testing.T) {
	s := newStore(t)
	testutil.Must(t, s.Write(dualStack()))
	for _, name := range []string{"05-a.conflist", "06-b.conf", "07-c.json", "08-notes.txt", "09-old.conflist.bak", "10-flannel.conflist", "99-z.conflist"} {
		testutil.Must(t, os.WriteFile(filepath.Join(s.ConfDir, name), []byte("{}"), 0o644))
	}
	testutil.Must(t, os.Mkdir(filepath.Join(s.ConfDir, "01-folder.conf"), 0o755))
	want := []string{"05-a.conflist", "06-b.conf", "07-c.json", "10-flannel.conflist"}
	if got := s.Before(); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := (Store{ConfDir: filepath.Join(s.ConfDir, "nowhere")}).Before(); got != nil {
		t.Errorf("in no folder there are %q", got)
	}
}
