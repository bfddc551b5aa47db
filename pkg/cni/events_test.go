package cni

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/fsnotify/fsnotify"

	"github.com/plainroute/plainroute/pkg/topology"
	"github.com/plainroute/plainroute/test/testutil"
)

// Events of our files, of configs before ours and of the folders themselves cause a notification,
// others don't.
func TestEventsThatNotify(t *testing.T) {
	for name, c := range map[string]struct {
		name   string
		op     fsnotify.Op
		news   bool
		unseen bool // the folder has to be watched again
	}{
		"our link":                 {"net.d/10-plainroute.conflist", fsnotify.Remove, true, false},
		"our file":                 {"run/10-plainroute.conflist", fsnotify.Write, true, false},
		"a config before ours":     {"net.d/05-other.conf", fsnotify.Create, true, false},
		"a config after ours":      {"net.d/99-other.conf", fsnotify.Create, false, false},
		"a lease":                  {"run/ipam", fsnotify.Create, false, false},
		"the run folder is gone":   {"run/", fsnotify.Remove, true, true},
		"the CNI folder was moved": {"net.d", fsnotify.Rename, true, true},
		"the run folder's mode":    {"run", fsnotify.Chmod, false, false},
		"a folder of others":       {"other", fsnotify.Remove, false, false},
	} {
		dir := t.TempDir()
		news := 0
		w := &folderWatch{
			Store:  Store{ConfDir: filepath.Join(dir, "net.d"), RunDir: filepath.Join(dir, "run") + "/"},
			notify: func() { news++ }, seen: map[string]bool{},
		}
		testutil.Must(t, os.Mkdir(w.ConfDir, 0o755))
		testutil.Must(t, os.Mkdir(w.RunDir, 0o755))
		testutil.Must(t, w.add())
		if len(w.seen) != 2 || news != 2 {
			t.Errorf("%d folders are watched, with %d notifications", len(w.seen), news)
		}
		testutil.Must(t, w.add()) // which finds nothing to add
		news = 0
		w.handle(fsnotify.Event{Name: filepath.Join(dir, c.name), Op: c.op})
		if (news == 1) != c.news || (len(w.seen) == 1) != c.unseen {
			t.Errorf("%s: %d news, and %v are watched still", name, news, w.seen)
		}
		w.close()
		if err := w.watcher.Add(dir); !errors.Is(err, fsnotify.ErrClosed) {
			t.Errorf("the watcher is open still: %v", err)
		}
	}
}

// A missing run folder causes a notification at each attempt, because a pass makes it. A missing
// CNI folder doesn't.
func TestMissingRunFolderIsNews(t *testing.T) {
	dir := t.TempDir()
	news := 0
	w := &folderWatch{
		Store: Store{ConfDir: filepath.Join(dir, "net.d"), RunDir: filepath.Join(dir, "run")}, notify: func() { news++ }, seen: map[string]bool{},
	}
	defer w.close()
	for range 2 {
		testutil.Must(t, w.add())
	}
	if news != 2 {
		t.Errorf("%d news of two looks", news)
	}
}

// The names of host-local's files are the leases; other files in its folder are not.
func TestLeases(t *testing.T) {
	s := Store{RunDir: t.TempDir()}
	if got := s.Leases(); got != nil {
		t.Errorf("without a folder there are %v", got)
	}
	testutil.Must(t, os.MkdirAll(s.leaseDir(), 0o755))
	for _, name := range []string{"10.244.1.2", "fd01::2", "lock", "last_reserved_ip.0"} {
		testutil.Must(t, os.WriteFile(filepath.Join(s.leaseDir(), name), nil, 0o600))
	}
	if got, want := s.Leases(), []netip.Addr{netip.MustParseAddr("10.244.1.2"), netip.MustParseAddr("fd01::2")}; !slices.Equal(got, want) {
		t.Errorf("leases %v, want %v", got, want)
	}
}

// A symlink of our name to another file is not ours, even if our file exists.
func TestLinkElsewhereIsNotOurs(t *testing.T) {
	s := newStore(t)
	testutil.Must(t, s.Write(dualStack()))
	testutil.Must(t, os.Remove(s.link()))
	testutil.Must(t, os.Symlink(s.target()+".other", s.link()))
	if got := s.Read(); got == nil || !got.Equal(&topology.CNI{}) {
		t.Errorf("read as %+v", got)
	}
}

// Clear returns the errors of files that can't be removed.
func TestClearTellsWhatStays(t *testing.T) {
	unprivileged(t, func() {
		s := newStore(t)
		testutil.Must(t, s.Write(dualStack()))
		testutil.Must(t, os.MkdirAll(s.leaseDir(), 0o755))
		testutil.Must(t, os.Chmod(s.ConfDir, 0o555))
		defer func() { testutil.Must(t, os.Chmod(s.ConfDir, 0o755)) }()
		if err := s.Clear(false); err == nil || !strings.Contains(err.Error(), "removing our files: ") {
			t.Errorf("it says %v", err)
		}
		testutil.Must(t, os.Chmod(s.ConfDir, 0o755))
		testutil.Must(t, os.Chmod(filepath.Dir(s.leaseDir()), 0o555))
		defer func() { testutil.Must(t, os.Chmod(filepath.Dir(s.leaseDir()), 0o755)) }()
		if err := s.Clear(true); err == nil || !strings.Contains(err.Error(), "removing our files: ") {
			t.Errorf("of leases it says %v", err)
		}
	})
}

// Leases count only if they are in a folder, and TakeLock returns an error if something else is in
// the lock's place.
func TestFileWhereLeasesAre(t *testing.T) {
	s := newStore(t)
	testutil.Must(t, os.MkdirAll(s.RunDir, 0o755))
	testutil.Must(t, os.WriteFile(s.LeaseDir(), nil, 0o600))
	if got := s.Leftovers(); len(got) > 0 {
		t.Errorf("left over: %v", got)
	}
	testutil.Must(t, os.Mkdir(s.lock(), 0o755))
	if _, err := s.TakeLock(); err == nil || !strings.Contains(err.Error(), "opening the lock: ") {
		t.Errorf("locking says %v", err)
	}
	testutil.Must(t, os.Remove(s.lock()))
	lock, err := s.TakeLock()
	testutil.Must(t, err)
	testutil.Must(t, lock.Close())
	if err := lock.Close(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("closing it twice says %v", err)
	}
	if err := lock.Renew(); err != nil || !s.Held() {
		t.Errorf("locking anew says %v", err)
	}
	testutil.Must(t, lock.Close())
}
