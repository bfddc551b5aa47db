package plugins

import (
	"debug/elf"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/test/testutil"
)

// ownProgram is one of this machine: the test itself.
func ownProgram(t *testing.T) []byte {
	t.Helper()
	path, err := os.Executable()
	testutil.Must(t, err)
	content, err := os.ReadFile(path)
	testutil.Must(t, err)
	return content
}

// Plugins that can't be executed are returned with the reason, others are left out.
func TestUnfit(t *testing.T) {
	whole := ownProgram(t)
	foreign := append([]byte(nil), whole...)
	binary.LittleEndian.PutUint16(foreign[18:], uint16(elf.EM_S390)) // e_machine of elf(5)
	headless := append([]byte(nil), whole[:len(whole)/2]...)
	clear(headless[40:48]) // e_shoff: an older linker's program is not identified by its sections
	clear(headless[60:64]) // e_shnum and e_shstrndx
	for name, c := range map[string]struct {
		make func(path string) error
		want string // a part of it; "": fit
	}{
		"missing":                  {func(string) error { return nil }, "is not in "},
		"a program":                {func(p string) error { return os.WriteFile(p, whole, 0o755) }, ""},
		"a script":                 {func(p string) error { return os.WriteFile(p, []byte("#!/bin/sh\n"), 0o755) }, ""},
		"not executable":           {func(p string) error { return os.WriteFile(p, whole, 0o644) }, "is not executable (-rw"},
		"for another machine":      {func(p string) error { return os.WriteFile(p, foreign, 0o755) }, "it is for EM_S390, and this machine is "},
		"a page of a web server":   {func(p string) error { return os.WriteFile(p, []byte("<html>404</html>"), 0o755) }, "it is not a program"},
		"empty":                    {func(p string) error { return os.WriteFile(p, nil, 0o755) }, "it has only 0 bytes"},
		"cut short":                {func(p string) error { return os.WriteFile(p, whole[:len(whole)/2], 0o755) }, "it is not a whole program"},
		"cut short, old linker":    {func(p string) error { return os.WriteFile(p, headless, 0o755) }, "its end is missing"},
		"a folder":                 {func(p string) error { return os.Mkdir(p, 0o755) }, "is not a file"},
		"a pipe":                   {func(p string) error { return unix.Mkfifo(p, 0o755) }, "is not a file"},
		"a link out of the folder": {func(p string) error { return os.Symlink("/nowhere/bridge", p) }, ""},
		"a link to nothing":        {func(p string) error { return os.Symlink("nothing", p) }, "is not in "},
	} {
		t.Run(name, func(t *testing.T) {
			f := &Folder{Path: t.TempDir()}
			testutil.Must(t, c.make(filepath.Join(f.Path, "bridge")))
			for range 2 { // the second answer is from memory
				why, unfit := f.Unfit([]string{"bridge"})["bridge"]
				if unfit != (c.want != "") || !strings.Contains(why, c.want) {
					t.Errorf("got %q, want %q", why, c.want)
				}
			}
		})
	}
}

// The result for a file is forgotten when the file changes.
func TestUnfitSeesChanges(t *testing.T) {
	f, whole := &Folder{Path: t.TempDir()}, ownProgram(t)
	path := filepath.Join(f.Path, "bridge")
	old := time.Unix(1e9, 0)
	for _, step := range []struct {
		what string
		do   func() error
		fit  bool
	}{
		{"put there", func() error { return os.WriteFile(path, whole, 0o755) }, true},
		{"truncated", func() error { return os.Truncate(path, 100) }, false},
		{"written again", func() error { return os.WriteFile(path, whole, 0o755) }, true},
		{"garbled, with its old size and time", func() error {
			if err := os.WriteFile(path, make([]byte, len(whole)), 0o755); err != nil {
				return err
			}
			return os.Chtimes(path, old, old)
		}, false},
		{"replaced", func() error {
			if err := os.WriteFile(path+".new", whole, 0o755); err != nil {
				return err
			}
			return os.Rename(path+".new", path)
		}, true},
		{"made a plain file", func() error { return os.Chmod(path, 0o600) }, false},
		{"made a program", func() error { return os.Chmod(path, 0o700) }, true},
		{"removed", func() error { return os.Remove(path) }, false},
	} {
		testutil.Must(t, step.do())
		if unfit := f.Unfit([]string{"bridge"}); (len(unfit) == 0) != step.fit {
			t.Errorf("%s: got %v", step.what, unfit)
		}
	}
}

// Of a folder that is not there, or from which nothing can be executed, no plugin is fit.
func TestUnfitFolder(t *testing.T) {
	names := []string{"bridge", "host-local"}
	f := &Folder{Path: filepath.Join(t.TempDir(), "none")}
	if unfit := f.Unfit(names); len(unfit) != 2 || !strings.Contains(unfit["bridge"], f.Path+", is not there") {
		t.Errorf("got %v", unfit)
	}
	f = &Folder{Path: t.TempDir()}
	for _, name := range names {
		testutil.Must(t, os.WriteFile(filepath.Join(f.Path, name), []byte("#!/bin/sh\n"), 0o755))
	}
	if unfit := f.Unfit(names); len(unfit) > 0 {
		t.Errorf("got %v", unfit)
	}
	if err := unix.Mount(f.Path, f.Path, "", unix.MS_BIND, ""); err != nil {
		t.Skipf("can't mount here: %v", err)
	}
	defer func() { testutil.Must(t, unix.Unmount(f.Path, unix.MNT_DETACH)) }()
	testutil.Must(t, unix.Mount("", f.Path, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_NOEXEC, ""))
	if unfit := f.Unfit(names); len(unfit) != 2 || !strings.Contains(unfit["bridge"], "noexec") {
		t.Errorf("got %v", unfit)
	}
}

// A plugin that root may not read without its capabilities, as in the agent's container, is left
// out: the runtime has them.
func TestUnreadableIsBelieved(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give files away")
	}
	const other = 65534
	for name, spoil := range map[string]func(dir string) error{
		"program": func(dir string) error {
			return errors.Join(os.Chown(filepath.Join(dir, "bridge"), other, other), os.Chmod(filepath.Join(dir, "bridge"), 0o700))
		},
		"folder":          func(dir string) error { return errors.Join(os.Chown(dir, other, other), os.Chmod(dir, 0o700)) },
		"unlisted folder": func(dir string) error { return errors.Join(os.Chown(dir, other, other), os.Chmod(dir, 0o711)) },
	} {
		t.Run(name, func(t *testing.T) {
			f := &Folder{Path: t.TempDir()}
			testutil.Must(t, os.Chmod(filepath.Dir(f.Path), 0o755))
			testutil.Must(t, os.WriteFile(filepath.Join(f.Path, "bridge"), ownProgram(t), 0o755))
			testutil.Must(t, spoil(f.Path))
			withoutDAC(t)
			if _, err := os.ReadFile(filepath.Join(f.Path, "bridge")); name != "unlisted folder" && !errors.Is(err, os.ErrPermission) {
				t.Fatalf("it can be read: %v", err)
			}
			if unfit := f.Unfit([]string{"bridge"}); len(unfit) > 0 {
				t.Errorf("got %v", unfit)
			}
		})
	}
}

// withoutDAC takes the capabilities by which root reads everything off the test's thread.
func withoutDAC(t *testing.T) {
	t.Helper()
	runtime.LockOSThread()
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	testutil.Must(t, unix.Capget(&header, &data[0]))
	all := data
	data[0].Effective &^= 1<<unix.CAP_DAC_OVERRIDE | 1<<unix.CAP_DAC_READ_SEARCH
	testutil.Must(t, unix.Capset(&header, &data[0]))
	t.Cleanup(func() { testutil.Must(t, unix.Capset(&header, &all[0])) })
}

// The stock plugins are fit.
func TestStockPluginsAreFit(t *testing.T) {
	f := &Folder{Path: testutil.NeedPlugins(t)}
	if unfit := f.Unfit([]string{"bridge", "host-local", "loopback", "portmap", "firewall"}); len(unfit) > 0 {
		t.Errorf("got %v", unfit)
	}
}
