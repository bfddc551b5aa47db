package cni

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/topology"
	"github.com/plainroute/plainroute/test/testutil"
)

// Any file with our name is replaced, and the target of a symlink is untouched.
func TestWriteReplacesWhatHasOurName(t *testing.T) {
	for name, plant := range map[string]func(s Store, victim string) error{
		"file":                    func(s Store, _ string) error { return os.WriteFile(s.link(), []byte("{}"), 0o600) },
		"foreign symlink":         func(s Store, victim string) error { return os.Symlink(victim, s.link()) },
		"dangling symlink":        func(s Store, _ string) error { return os.Symlink("/nowhere", s.link()) },
		"symlink to itself":       func(s Store, _ string) error { return os.Symlink(s.link(), s.link()) },
		"symlink at the target":   func(s Store, victim string) error { return os.Symlink(victim, s.target()) },
		"file at the target":      func(s Store, _ string) error { return os.WriteFile(s.target(), []byte("{}"), 0o600) },
		"symlink at the tempname": func(s Store, victim string) error { return os.Symlink(victim, s.link()+".plainroute-new") },
		"file at the tempname":    func(s Store, _ string) error { return os.WriteFile(s.link()+".plainroute-new", nil, 0o600) },
		"symlink at the target's tempname": func(s Store, victim string) error {
			return os.Symlink(victim, s.target()+".plainroute-new")
		},
		"hard link at the target's tempname": func(s Store, victim string) error {
			return os.Link(victim, s.target()+".plainroute-new")
		},
		"pipe at the target's tempname": func(s Store, _ string) error {
			return unix.Mkfifo(s.target()+".plainroute-new", 0o666)
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			victim := filepath.Join(t.TempDir(), "victim")
			testutil.Must(t, os.WriteFile(victim, []byte("precious"), 0o600))
			testutil.Must(t, plant(s, victim))
			if got := s.Read(); got != nil && got.Bridge != "" {
				t.Errorf("took it for ours: %+v", got)
			}
			testutil.Must(t, s.Write(dualStack()))
			holds(t, s, dualStack())
			if got, err := os.ReadFile(victim); string(got) != "precious" {
				t.Errorf("the file that a symlink pointed to holds %q, %v", got, err)
			}
		})
	}
}

// A folder is not ours. It stays with its content, and the error names it.
func TestFolderOfOurNameStays(t *testing.T) {
	for name, place := range map[string]func(Store) string{
		"link":   func(s Store) string { return s.link() },
		"target": func(s Store) string { return s.target() },
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			if name == "target" {
				testutil.Must(t, os.Symlink(s.target(), s.link()))
			}
			folder := place(s)
			testutil.Must(t, os.MkdirAll(filepath.Join(folder, "work"), 0o755))
			if got := s.Read(); got == nil || got.Bridge != "" {
				t.Errorf("read %+v, want an empty config to be written anew", got)
			}
			if err := s.Write(dualStack()); err == nil || !strings.Contains(err.Error(), folder+" is a folder") {
				t.Errorf("Write says %v, want an error that names the folder", err)
			}
			if err := s.Remove(); err == nil || !strings.Contains(err.Error(), folder) {
				t.Errorf("Remove says %v, want an error that names the folder", err)
			}
			if _, err := os.Stat(filepath.Join(folder, "work")); err != nil {
				t.Error("what was in the folder is gone:", err)
			}
			for _, dir := range []string{s.ConfDir, s.RunDir} {
				for _, left := range list(t, dir) {
					if left != topology.Conflist {
						t.Errorf("%s was left in %s", left, filepath.Base(dir))
					}
				}
			}
		})
	}
}

func TestUnwritableFolder(t *testing.T) {
	for name, place := range map[string]func(Store) string{
		"conf folder": func(s Store) string { return s.ConfDir },
		"run folder":  func(s Store) string { return s.RunDir },
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			testutil.Must(t, os.Chmod(s.ConfDir, 0o777))
			testutil.Must(t, os.Chmod(s.RunDir, 0o777))
			testutil.Must(t, os.Chmod(place(s), 0o555))
			unprivileged(t, func() {
				err := s.Write(dualStack())
				if !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), place(s)) {
					t.Errorf("Write says %v, want a refusal that names the folder", err)
				}
			})
			if left := list(t, place(s)); len(left) > 0 {
				t.Errorf("left %q", left)
			}
			testutil.Must(t, os.Chmod(place(s), 0o777))
			unprivileged(t, func() {
				if err := s.Write(dualStack()); err != nil {
					t.Error(err)
				}
			})
			holds(t, s, dualStack())
		})
	}
}

// A config that we may not read is written again; it is not an error.
func TestUnreadableConfig(t *testing.T) {
	s := newStore(t)
	testutil.Must(t, s.Write(dualStack()))
	testutil.Must(t, os.Chmod(s.target(), 0))
	unprivileged(t, func() {
		if got := s.Read(); got == nil || got.Bridge != "" {
			t.Errorf("read %+v, want an empty config", got)
		}
	})
}

// unprivileged runs f without the capability to ignore permissions, for root too: a file system
// user other than root doesn't have it (setfsuid(2)).
func unprivileged(t *testing.T, f func()) {
	t.Helper()
	if os.Getuid() != 0 {
		f()
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		const nobody = 65534
		if err := unix.Setfsuid(nobody); err != nil {
			t.Error(err)
			return
		}
		f()
	}()
	<-done
}

// The runtime's folder is never created; the run folder is, whatever the umask.
func TestMissingFolder(t *testing.T) {
	defer unix.Umask(unix.Umask(0o077))
	s := newStore(t)
	testutil.Must(t, os.Remove(s.ConfDir))
	if err := s.Write(dualStack()); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), s.ConfDir) {
		t.Errorf("Write says %v, want an error that names the folder", err)
	}
	testutil.Must(t, os.RemoveAll(s.RunDir))
	if got := s.Read(); got != nil {
		t.Errorf("read %+v", got)
	}
	testutil.Must(t, s.Remove())
	testutil.Must(t, os.Mkdir(s.ConfDir, 0o755))
	testutil.Must(t, s.Write(dualStack()))
	holds(t, s, dualStack())
	if at, err := os.Stat(s.RunDir); err != nil || at.Mode().Perm() != 0o755 {
		t.Errorf("the run folder is %v, %v", at, err)
	}
}

// A symlink in place of the run folder is not followed.
func TestRunFolderIsALink(t *testing.T) {
	s := newStore(t)
	testutil.Must(t, os.Remove(s.RunDir))
	elsewhere := t.TempDir()
	testutil.Must(t, os.Symlink(elsewhere, s.RunDir))
	if err := s.Write(dualStack()); err == nil || !strings.Contains(err.Error(), s.RunDir+" is not a folder") {
		t.Errorf("Write says %v", err)
	}
	if _, err := s.TakeLock(); err == nil || !strings.Contains(err.Error(), s.RunDir+" is not a folder") {
		t.Errorf("TakeLock says %v", err)
	}
	if left := list(t, elsewhere); len(left) > 0 {
		t.Errorf("wrote %q through the link", left)
	}
}

// An empty folder is not ours either.
func TestEmptyFolderStays(t *testing.T) {
	for _, path := range []func(Store) string{Store.link, Store.target} {
		for _, suffix := range []string{"", tempSuffix} {
			s := newStore(t)
			folder := path(s) + suffix
			testutil.Must(t, os.Mkdir(folder, 0o755))
			if err := s.Write(dualStack()); err == nil || !strings.Contains(err.Error(), folder) {
				t.Errorf("Write says %v, want an error that names %s", err, folder)
			}
			s.RemoveTemporary()
			_ = s.Remove()
			if _, err := os.Stat(folder); err != nil {
				t.Error(err)
			}
		}
	}
}
