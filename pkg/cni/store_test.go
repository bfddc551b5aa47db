package cni

import (
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/topology"
	"github.com/plainroute/plainroute/test/testutil"
)

func dualStack() topology.CNI {
	return topology.CNI{
		Bridge: "plainroute0", MTU: 1500, IPAMDir: "/run/plainroute/ipam",
		Subnets: []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24"), netip.MustParsePrefix("fd00:10:244:1::/64")},
	}
}

// newStore makes empty folders, which other users may enter.
func newStore(t *testing.T) Store {
	t.Helper()
	dir := t.TempDir()
	s := Store{ConfDir: filepath.Join(dir, "net.d"), RunDir: filepath.Join(dir, "run")}
	for _, d := range []string{s.ConfDir, s.RunDir} {
		testutil.Must(t, os.Mkdir(d, 0o755))
	}
	testutil.Must(t, os.Chmod(dir, 0o755))
	testutil.Must(t, os.Chmod(filepath.Dir(dir), 0o755))
	return s
}

// holds checks that the store has the config and nothing else.
func holds(t *testing.T, s Store, want topology.CNI) {
	t.Helper()
	if got := s.Read(); !reflect.DeepEqual(got, &want) {
		t.Errorf("read %+v, want %+v", got, want)
	}
	onlyConf(t, s.ConfDir)
	onlyConf(t, s.RunDir)
	link, err := os.Lstat(s.link())
	testutil.Must(t, err)
	if link.Mode()&os.ModeSymlink == 0 {
		t.Errorf("the config is no symlink but %s", link.Mode())
	}
	file, err := os.Stat(s.link())
	testutil.Must(t, err)
	if file.Mode() != 0o644 {
		t.Errorf("the config's mode is %s, want 0644", file.Mode())
	}
}

// onlyConf checks that no temporary file was left.
func onlyConf(t *testing.T, dir string) {
	t.Helper()
	if names := list(t, dir); !slices.Equal(names, []string{topology.Conflist}) {
		t.Errorf("%s holds %q, want the config alone", filepath.Base(dir), names)
	}
}

func list(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	testutil.Must(t, err)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestWriteReadRemove(t *testing.T) {
	s := newStore(t)
	if got := s.Read(); got != nil {
		t.Errorf("read %+v from an empty folder", got)
	}
	defer unix.Umask(unix.Umask(0o077)) // of a cautious service manager
	testutil.Must(t, s.Write(dualStack()))
	holds(t, s, dualStack())
	other := topology.CNI{Bridge: "br0", MTU: 9000, IPAMDir: "/tmp/x", Subnets: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/26")}}
	testutil.Must(t, s.Write(other))
	holds(t, s, other)
	for range 2 {
		testutil.Must(t, s.Remove())
		if left := slices.Concat(list(t, s.ConfDir), list(t, s.RunDir)); len(left) > 0 {
			t.Errorf("Remove left %q", left)
		}
	}
	if got := s.Read(); got != nil {
		t.Errorf("read %+v after Remove", got)
	}
}

// After a reboot the run folder is empty: no runtime may load the config until it is written again.
func TestRebootTakesTheConfig(t *testing.T) {
	s := newStore(t)
	testutil.Must(t, s.Write(dualStack()))
	testutil.Must(t, os.RemoveAll(s.RunDir))
	testutil.Must(t, os.Mkdir(s.RunDir, 0o755))
	if got := s.Read(); got != nil {
		t.Errorf("read %+v, want none", got)
	}
	if _, err := libcni.ConfListFromFile(s.link()); err == nil {
		t.Error("a runtime can load the config of before")
	}
	testutil.Must(t, s.Write(dualStack()))
	holds(t, s, dualStack())
}

// A runtime that reads while we write always finds a whole config.
func TestWriteIsAtomic(t *testing.T) {
	s := newStore(t)
	a, b := dualStack(), dualStack()
	b.Subnets = b.Subnets[:1]
	testutil.Must(t, s.Write(a))
	want := [][]byte{render(t, a), render(t, b)}
	done := make(chan struct{})
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-done:
					return
				default:
				}
				got, err := os.ReadFile(s.link())
				if err != nil || string(got) != string(want[0]) && string(got) != string(want[1]) {
					t.Errorf("read %q, %v", got, err)
					return
				}
			}
		})
	}
	for i := range 300 {
		testutil.Must(t, s.Write([]topology.CNI{b, a}[i%2]))
	}
	close(done)
	readers.Wait()
	holds(t, s, a)
}

func render(t *testing.T, c topology.CNI) []byte {
	t.Helper()
	content, err := Render(c)
	testutil.Must(t, err)
	return content
}

// containerd loads what is renamed into place in its folder, and would load a temporary file by
// another name than ours.
func TestWriteRenamesIntoPlace(t *testing.T) {
	s := newStore(t)
	testutil.Must(t, s.Write(dualStack()))
	for _, dir := range []string{s.ConfDir, s.RunDir} {
		watch := newWatch(t, dir)
		testutil.Must(t, s.Write(dualStack()))
		moved := 0
		for _, e := range watch.events() {
			switch {
			case e.name == topology.Conflist && e.mask == unix.IN_MOVED_TO:
				moved++
			case e.name == topology.Conflist:
				t.Errorf("%s: the config itself got event %#x", filepath.Base(dir), e.mask)
			case strings.HasSuffix(e.name, ".conf") || strings.HasSuffix(e.name, ".conflist") || strings.HasSuffix(e.name, ".json"):
				t.Errorf("%s: a runtime would load %s", filepath.Base(dir), e.name)
			}
		}
		if moved != 1 {
			t.Errorf("%s: the config was renamed into place %d times, want 1", filepath.Base(dir), moved)
		}
	}
}

// watch is an inotify instance on a folder.
type watch struct {
	t  *testing.T
	fd int
}

type event struct {
	name string
	mask uint32
}

func newWatch(t *testing.T, dir string) watch {
	t.Helper()
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	testutil.Must(t, err)
	t.Cleanup(func() { _ = unix.Close(fd) })
	_, err = unix.InotifyAddWatch(fd, dir, unix.IN_CREATE|unix.IN_MODIFY|unix.IN_DELETE|unix.IN_MOVED_TO|unix.IN_MOVED_FROM)
	testutil.Must(t, err)
	return watch{t, fd}
}

// events returns what has happened so far: struct inotify_event of inotify(7).
func (w watch) events() []event {
	w.t.Helper()
	buf := make([]byte, 64<<10)
	n, err := unix.Read(w.fd, buf)
	testutil.Must(w.t, err)
	var events []event
	for b := buf[:n]; len(b) >= unix.SizeofInotifyEvent; {
		mask := uint32(b[4]) | uint32(b[5])<<8 | uint32(b[6])<<16 | uint32(b[7])<<24
		end := unix.SizeofInotifyEvent + int(b[12]) + int(b[13])<<8
		events = append(events, event{strings.TrimRight(string(b[unix.SizeofInotifyEvent:end]), "\x00"), mask})
		b = b[end:]
	}
	return events
}
