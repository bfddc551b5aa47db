package cni

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/topology"
	"github.com/plainroute/plainroute/test/testutil"
)

// readRegular returns the system's error without the path, which its callers name.
func TestReadRegularErrors(t *testing.T) {
	dir := t.TempDir()
	pipe := filepath.Join(dir, "pipe")
	testutil.Must(t, unix.Mkfifo(pipe, 0o644))
	for path, want := range map[string]string{
		filepath.Join(dir, "none"): unix.ENOENT.Error(),
		pipe:                       "not a regular file: p",
		dir:                        "not a regular file: d",
	} {
		if content, err := readRegular(path, 10); content != nil || err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: %q, %v, want %q", path, content, err, want)
		}
	}
	// Nothing is mapped at address 0 of our own memory, which is a regular file.
	if content, err := readRegular("/proc/self/mem", 10); content != nil || !errors.Is(err, unix.EIO) {
		t.Errorf("reading an unmapped address: %q, %v", content, err)
	}
}

// A file may be as large as the limit, and no byte larger.
func TestReadRegularOfTheLimit(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	testutil.Must(t, os.WriteFile(path, []byte("0123456789"), 0o600))
	if content, err := readRegular(path, 10); err != nil || string(content) != "0123456789" {
		t.Errorf("%q, %v", content, err)
	}
	if content, err := readRegular(path, 9); err == nil || content != nil {
		t.Errorf("%q, %v", content, err)
	}
}

// decodeEntry returns an error with the cause for anything but one object.
func TestDecodeEntryErrors(t *testing.T) {
	for content, want := range map[string]string{
		"null": "not one JSON object: null", `{"type":`: "not one JSON object: unexpected EOF",
		"": "not one JSON object: EOF", "{} {}": "not one JSON object: something follows the object",
	} {
		if e, err := decodeEntry([]byte(content)); e != nil || err == nil || err.Error() != want {
			t.Errorf("%q: %v, %v, want %q", content, e, err, want)
		}
	}
}

// A plugin that JSON can't express is an error, and no config is rendered with it.
func TestUnmarshalablePlugin(t *testing.T) {
	if p, err := (entry{"type": "tuning", "x": func() {}}).plugin(); err == nil {
		t.Errorf("got %+v", p)
	}
	c := dualStack()
	c.Plugins = []topology.Plugin{{Type: "tuning", Config: "{"}}
	if content, err := Render(c); content != nil || err == nil || !strings.Contains(err.Error(), "rendering plugin tuning: ") {
		t.Errorf("%q, %v", content, err)
	}
	s := newStore(t)
	if err := s.Write(c); err == nil || !strings.Contains(err.Error(), "rendering plugin tuning: ") {
		t.Errorf("Write returned %v", err)
	}
}

// A symlink to another file is not our config, and the plugins in that file are not appended to ours.
func TestPluginsBehindAForeignLink(t *testing.T) {
	s := newChain(t)
	s.settle(t, topology.LayoutLink)
	other := filepath.Join(t.TempDir(), "other")
	content, err := os.ReadFile(s.target())
	testutil.Must(t, err)
	testutil.Must(t, os.WriteFile(other, content, 0o644))
	edit(t, installers()["write"], other, add(mesh(1)))
	testutil.Must(t, os.Remove(s.link()))
	testutil.Must(t, os.Symlink(other, s.link()))
	if plugins, faults := s.Plugins(); len(plugins)+len(faults) > 0 {
		t.Errorf("got %+v, faults %q", plugins, faults)
	}
}

// Of two files that others changed the later one counts, in either order.
func TestLaterOfTwoEdits(t *testing.T) {
	for _, order := range [][]func(Store) string{{Store.link, Store.target}, {Store.target, Store.link}} {
		s := newChain(t)
		s.settle(t, topology.LayoutGate)
		earlier, later := order[0](s), order[1](s)
		edit(t, installers()["write"], earlier, add(mesh(1)))
		edit(t, installers()["write"], later, add(mesh(2)))
		for until := time.Now().Add(time.Minute); !after(later, earlier); { // the kernel's clock ticks some 250 times a second
			if time.Now().After(until) {
				t.Fatalf("%s is not later than %s", later, earlier)
			}
			edit(t, installers()["write"], later, slices.Clone)
		}
		plugins, _ := s.Plugins()
		if len(plugins) != 1 || plugins[0].Config != `{"type":"mesh-cni","version":2}` {
			t.Errorf("%s was changed last: got %+v", filepath.Base(later), plugins)
		}
	}
}

// after reports whether a file was changed after another.
func after(path, other string) bool {
	a, b := stampOf(path).time, stampOf(other).time
	return time.Unix(a.Unix()).After(time.Unix(b.Unix()))
}

// A file that others changed goes before one that we wrote after it.
func TestEditGoesBeforeOurOwnWriting(t *testing.T) {
	for _, order := range [][]func(Store) string{{Store.link, Store.target}, {Store.target, Store.link}} {
		s := newChain(t)
		s.settle(t, topology.LayoutGate)
		theirs, ours := order[0](s), order[1](s)
		edit(t, installers()["write"], theirs, add(mesh(1)))
		content, err := os.ReadFile(ours)
		testutil.Must(t, err)
		for until := time.Now().Add(time.Minute); !after(ours, theirs); {
			if time.Now().After(until) {
				t.Fatalf("%s is not later than %s", ours, theirs)
			}
			testutil.Must(t, os.WriteFile(ours, content, 0o644))
		}
		if plugins, _ := s.Plugins(); len(plugins) != 1 || plugins[0].Type != "mesh-cni" {
			t.Errorf("%s was changed by others: got %+v", filepath.Base(theirs), plugins)
		}
	}
}

// Without both names in the CNI folder there is no config. With one of them the layout is mixed, so
// that it is written again.
func TestReadWithoutNames(t *testing.T) {
	s := newChain(t)
	s.settle(t, topology.LayoutGate)
	testutil.Must(t, os.Remove(s.link()))
	if got := s.Read(); got == nil || got.Layout != topology.LayoutMixed || got.Bridge == "" {
		t.Errorf("with the gate alone it reads %+v", got)
	}
	s.settle(t, topology.LayoutGate)
	testutil.Must(t, os.Remove(s.link()))
	testutil.Must(t, os.Remove(s.gate()))
	if got := s.Read(); got != nil {
		t.Errorf("without a name it reads %+v", got)
	}
}

// place does not replace a file that another program has written into since the stamps were taken.
func TestPlaceSeesWritingInPlace(t *testing.T) {
	s := newChain(t)
	c := s.settle(t, topology.LayoutGate)
	seen := s.stamps()
	theirs := []byte(`{"theirs": true}`)
	before := seen[s.link()].time
	for until := time.Now().Add(time.Minute); ; { // until the kernel's clock has ticked
		testutil.Must(t, os.WriteFile(s.link(), theirs, 0o644))
		at, err := os.Stat(s.link())
		testutil.Must(t, err)
		if at.ModTime().After(time.Unix(before.Unix())) {
			break
		}
		if time.Now().After(until) {
			t.Fatal("the time of a file that is written does not change")
		}
	}
	if err := s.place(c, seen); !errors.Is(err, errChanged) {
		t.Errorf("got error %v", err)
	}
	if got, err := os.ReadFile(s.link()); err != nil || string(got) != string(theirs) {
		t.Errorf("the file holds %q, %v", got, err)
	}
}

// With our own firewall plugin in the config, a firewall plugin that others append does not make a
// config outdated. Without it, their plugin counts like any other.
func TestOutdatedByAFirewall(t *testing.T) {
	for _, c := range []struct {
		ours     bool
		appended any
		outdated bool
	}{
		{true, map[string]any{"type": topology.FirewallPlugin, "backend": "nftables"}, false},
		{false, map[string]any{"type": topology.FirewallPlugin, "backend": "nftables"}, true},
		{true, mesh(1), true},
		{false, mesh(1), true},
	} {
		s := newChain(t)
		old := s.settle(t, topology.LayoutLink)
		old.Firewall = c.ours
		testutil.Must(t, s.Write(old))
		if s.outdated(old) {
			t.Errorf("firewall %t: outdated by nothing", c.ours)
		}
		edit(t, installers()["rename"], s.link(), add(c.appended))
		if got := s.outdated(old); got != c.outdated {
			t.Errorf("firewall %t, %v appended: outdated is %t", c.ours, c.appended, got)
		}
	}
}

// In each layout Write returns an error with the path of a folder that stands in the way of a file.
func TestWriteNamesWhatIsInTheWay(t *testing.T) {
	for _, c := range []struct {
		layout topology.Layout
		path   func(Store) string
	}{
		{topology.LayoutLink, Store.link},
		{topology.LayoutLink, Store.gate},
		{topology.LayoutFile, Store.link},
		{topology.LayoutFile, Store.gate},
		{topology.LayoutGate, Store.link},
		{topology.LayoutGate, Store.gate},
	} {
		s := newChain(t)
		testutil.Must(t, os.Mkdir(c.path(s), 0o755))
		if err := s.Write(s.chain(t, c.layout)); err == nil || !strings.Contains(err.Error(), c.path(s)) {
			t.Errorf("layout %q, a folder at %s: Write returned %v", c.layout, filepath.Base(c.path(s)), err)
		}
	}
}

// share returns the error of creating the file, and creates none if the config can't be rendered.
func TestShareErrors(t *testing.T) {
	s := newChain(t)
	c := s.chain(t, topology.LayoutFile)
	testutil.Must(t, os.Chmod(s.RunDir, 0o777))
	testutil.Must(t, os.Chmod(s.ConfDir, 0o555))
	unprivileged(t, func() {
		if err := s.Write(c); !errors.Is(err, os.ErrPermission) || !strings.Contains(err.Error(), s.link()) {
			t.Errorf("Write returned %v", err)
		}
	})
	testutil.Must(t, os.Chmod(s.ConfDir, 0o755))
	c.Plugins = []topology.Plugin{{Type: "tuning", Config: "{"}}
	before := stampOf(s.link())
	if err := s.share(c, s.stamps()); err == nil || !strings.Contains(err.Error(), "rendering plugin tuning: ") {
		t.Errorf("got error %v", err)
	}
	if stampOf(s.link()) != before {
		t.Errorf("%s was written", s.link())
	}
}

// The stamps of two files differ, also if both were changed in one tick of the kernel's clock.
func TestStampsOfTwoFiles(t *testing.T) {
	a, b := filepath.Join(t.TempDir(), "a"), filepath.Join(t.TempDir(), "b")
	for until := time.Now().Add(time.Minute); ; {
		testutil.Must(t, os.WriteFile(a, nil, 0o600))
		testutil.Must(t, os.WriteFile(b, nil, 0o600))
		if x, y := stampOf(a), stampOf(b); x == y {
			t.Fatalf("both are %+v", x)
		} else if x.time == y.time {
			return
		}
		if time.Now().After(until) {
			t.Fatal("no two files are changed in one tick")
		}
	}
}
