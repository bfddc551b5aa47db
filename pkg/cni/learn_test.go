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

// Of what happens in the folders, our files, those before ours and the folders themselves are news.
func TestWhatIsNews(t *testing.T) {
	for name, c := range map[string]struct {
		name   string
		op     fsnotify.Op
		news   bool
		unseen bool // the folder has to be watched anew
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
			t.Errorf("%d folders are watched, and %d told", len(w.seen), news)
		}
		testutil.Must(t, w.add()) // which finds nothing to add
		news = 0
		w.learn(fsnotify.Event{Name: filepath.Join(dir, c.name), Op: c.op})
		if (news == 1) != c.news || (len(w.seen) == 1) != c.unseen {
			t.Errorf("%s: %d news, and %v are watched still", name, news, w.seen)
		}
		w.close()
		if err := w.watcher.Add(dir); !errors.Is(err, fsnotify.ErrClosed) {
			t.Errorf("the watcher is open still: %v", err)
		}
	}
}

// A run folder that is not there is news each time it is looked for: a pass makes it. A CNI folder is not.
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

// The names of host-local's files are the leases; what else is in its folder is none.
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

// A link of our name that leads elsewhere is none of ours, though our file be there.
func TestLinkElsewhereIsNotOurs(t *testing.T) {
	s := newStore(t)
	testutil.Must(t, s.Write(dualStack()))
	testutil.Must(t, os.Remove(s.link()))
	testutil.Must(t, os.Symlink(s.target()+".other", s.link()))
	if got := s.Read(); got == nil || !got.Equal(&topology.CNI{}) {
		t.Errorf("read as %+v", got)
	}
}

// What keeps files of ours from being removed is told.
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

// Of leases only a folder counts, and a lock whose place is taken is told.
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
