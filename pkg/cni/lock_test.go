package cni

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/plainroute/plainroute/pkg/topology"
	"github.com/plainroute/plainroute/test/testutil"
)

// The lock ends with its holder, so that nothing is left to clean up.
func TestLockAdmitsOne(t *testing.T) {
	s := Store{RunDir: filepath.Join(t.TempDir(), "deep", "run")}
	first, err := s.TakeLock()
	testutil.Must(t, err)
	if second, err := s.TakeLock(); second != nil || err == nil || !strings.Contains(err.Error(), "another agent runs") {
		t.Errorf("got a second lock %v, %v", second, err)
	}
	testutil.Must(t, first.Renew())
	testutil.Must(t, first.Close())
	third, err := s.TakeLock()
	testutil.Must(t, err)
	testutil.Must(t, third.Close())
	if at, err := os.Stat(s.RunDir); err != nil || at.Mode().Perm() != 0o755 {
		t.Errorf("the run folder is %v, %v", at, err)
	}
}

// If the run folder is emptied, the lock's file is gone and the lock is not: the next Write locks a
// new file, and no other process can.
func TestLockOutlivesItsFile(t *testing.T) {
	for name, remove := range map[string]func(Store) error{
		"file":   func(s Store) error { return os.Remove(filepath.Join(s.RunDir, "lock")) },
		"folder": func(s Store) error { return os.RemoveAll(s.RunDir) },
		"foreign file": func(s Store) error {
			path := filepath.Join(s.RunDir, "lock")
			return os.Rename(path, path+".old")
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			var err error
			s.Lock, err = s.TakeLock()
			testutil.Must(t, err)
			defer s.Lock.Close()
			testutil.Must(t, s.Write(dualStack()))
			testutil.Must(t, remove(s))
			testutil.Must(t, s.Write(dualStack()))
			if second, err := s.TakeLock(); second != nil || err == nil {
				t.Error("a second agent got in")
			}
			if s.Read() == nil {
				t.Error("the config is not back")
			}
		})
	}
}

// An agent that is too late to lock the new file writes no more.
func TestLockLostToAnother(t *testing.T) {
	s := newStore(t)
	var err error
	s.Lock, err = s.TakeLock()
	testutil.Must(t, err)
	defer s.Lock.Close()
	testutil.Must(t, os.RemoveAll(s.RunDir))
	other, err := s.TakeLock()
	testutil.Must(t, err)
	defer other.Close()
	if err := s.Write(dualStack()); err == nil || !strings.Contains(err.Error(), "another agent runs") {
		t.Errorf("Write says %v", err)
	}
	if left := list(t, s.ConfDir); len(left) > 0 {
		t.Errorf("wrote %q", left)
	}
}

func TestRunFolderForAnybodyIsRefused(t *testing.T) {
	s := newStore(t)
	testutil.Must(t, os.Chmod(s.RunDir, 0o777))
	if lock, err := s.TakeLock(); lock != nil || err == nil || !strings.Contains(err.Error(), "every user may write to "+s.RunDir) {
		t.Errorf("TakeLock says %v", err)
	}
}

// crashVariable makes the test binary a program that writes until it is killed.
const crashVariable = "PLAINROUTE_CNI_TEST_CRASH"

// A crash leaves the steps of Write that were done, and at most a file with a temporary name, which
// the next agent removes when it starts, or writes over.
func TestCrashLeavesNothing(t *testing.T) {
	s := newStore(t)
	testutil.Must(t, s.Write(dualStack()))
	for range 30 {
		crash(t, s)
		if got := s.Read(); got == nil || got.Bridge == "" {
			t.Fatalf("after a crash the config is %+v", got)
		}
		s.RemoveTemporary()
		onlyConf(t, s.ConfDir)
		onlyConf(t, s.RunDir)
	}
	testutil.Must(t, os.WriteFile(s.target()+tempSuffix, []byte("half"), 0o600))
	testutil.Must(t, os.Symlink("/nowhere", s.link()+tempSuffix))
	s.RemoveTemporary()
	onlyConf(t, s.ConfDir)
	onlyConf(t, s.RunDir)
	testutil.Must(t, os.WriteFile(s.target()+tempSuffix, []byte("half"), 0o600))
	testutil.Must(t, s.Write(dualStack()))
	holds(t, s, dualStack())
}

// Nothing with our temporary names is loaded by a runtime.
func TestTempNames(t *testing.T) {
	name := topology.Conflist + tempSuffix
	for _, ending := range []string{".conf", ".conflist", ".json"} {
		if strings.HasSuffix(name, ending) {
			t.Errorf("a runtime loads files that end in %s", ending)
		}
	}
}
