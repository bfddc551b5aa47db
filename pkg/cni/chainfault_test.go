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
)

// What is wrong with a file is told in the system's words, without a second path.
func TestReadRegularTellsWhy(t *testing.T) {
	dir := t.TempDir()
	pipe := filepath.Join(dir, "pipe")
	must(t, unix.Mkfifo(pipe, 0o644))
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
		t.Errorf("of memory that is not there: %q, %v", content, err)
	}
}

// A file may be as large as the limit, and no byte larger.
func TestReadRegularOfTheLimit(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(path, []byte("0123456789"), 0o600))
	if content, err := readRegular(path, 10); err != nil || string(content) != "0123456789" {
		t.Errorf("%q, %v", content, err)
	}
	if content, err := readRegular(path, 9); err == nil || content != nil {
		t.Errorf("%q, %v", content, err)
	}
}

// What is no object is an error that says what it is.
func TestDecodeEntryTellsWhy(t *testing.T) {
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
func TestPluginThatIsNoJSON(t *testing.T) {
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
		t.Errorf("Write says %v", err)
	}
}

// A link that leads out of our files is not ours, and so are the plugins of what it leads to.
func TestPluginsBehindAForeignLink(t *testing.T) {
	s := newChain(t)
	s.settle(t, topology.LayoutLink)
	other := filepath.Join(t.TempDir(), "other")
	content, err := os.ReadFile(s.target())
	must(t, err)
	must(t, os.WriteFile(other, content, 0o644))
	edit(t, installers()["write"], other, add(mesh(1)))
	must(t, os.Remove(s.link()))
	must(t, os.Symlink(other, s.link()))
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
