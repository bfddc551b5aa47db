package cni

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/plainroute/plainroute/test/testutil"
)

// Clear removes all of ours and nothing else; the run folder stays if another file is in it.
func TestClear(t *testing.T) {
	for name, foreign := range map[string]bool{"alone": false, "beside a foreign file": true} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			testutil.Must(t, s.Write(dualStack()))
			lock, err := s.TakeLock()
			testutil.Must(t, err)
			defer lock.Close()
			testutil.Must(t, os.MkdirAll(filepath.Join(s.LeaseDir(), "plainroute"), 0o755))
			testutil.Must(t, os.WriteFile(filepath.Join(s.LeaseDir(), "plainroute", "10.244.1.2"), nil, 0o644))
			testutil.Must(t, os.WriteFile(s.link()+tempSuffix, nil, 0o600))
			testutil.Must(t, s.WriteNodes([]byte("nodes")))
			testutil.Must(t, os.WriteFile(s.nodes()+tempSuffix, nil, 0o600))
			testutil.Must(t, os.Symlink("/nowhere", s.target()+tempSuffix))
			if foreign {
				testutil.Must(t, os.WriteFile(filepath.Join(s.RunDir, "precious"), nil, 0o600))
			}
			if got := len(s.Configs()) + len(s.Leftovers()); got != 8 {
				t.Errorf("found %q, %q", s.Configs(), s.Leftovers())
			}
			testutil.Must(t, s.Clear(false))
			if got := s.Leftovers(); !slices.Equal(got, []string{s.LeaseDir()}) {
				t.Errorf("without the leases, left are %q", got)
			}
			for range 2 {
				testutil.Must(t, s.Clear(true))
			}
			if _, err := os.Stat(s.RunDir); foreign != (err == nil) {
				t.Errorf("the run folder: %v", err)
			}
			if left := list(t, s.ConfDir); len(left) > 0 {
				t.Errorf("left %q", left)
			}
		})
	}
}

// Held creates no file, and neither blocks an agent nor is blocked by one.
func TestHeld(t *testing.T) {
	s := Store{RunDir: filepath.Join(t.TempDir(), "run")}
	if s.Held() {
		t.Error("held by nobody")
	}
	if _, err := os.Stat(s.RunDir); !os.IsNotExist(err) {
		t.Error("looking made the run folder")
	}
	lock, err := s.TakeLock()
	testutil.Must(t, err)
	if !s.Held() {
		t.Error("an agent's lock was not seen")
	}
	if _, err := s.TakeLock(); !Held(err) {
		t.Errorf("%v does not say that it is held", err)
	}
	testutil.Must(t, lock.Close())
	if s.Held() {
		t.Error("held by nobody any more")
	}
}
