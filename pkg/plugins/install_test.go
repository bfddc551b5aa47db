package plugins

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/test/testutil"
)

// bench is a node's folder and ours, in which bridge is a release, v1.9.1.
type bench struct {
	Install
	ours  []byte
	older []byte
	newer []byte
}

func newBench(t *testing.T) *bench {
	t.Helper()
	dir := t.TempDir()
	b := &bench{
		Install: Install{From: filepath.Join(dir, "from"), To: filepath.Join(dir, "to")},
		ours:    release(t, "main/bridge", "v1.9.1"), older: release(t, "main/bridge", "v1.8.0"), newer: release(t, "main/bridge", "v2.0.0"),
	}
	testutil.Must(t, os.Mkdir(b.From, 0o755))
	testutil.Must(t, os.Mkdir(b.To, 0o755))
	testutil.Must(t, os.WriteFile(filepath.Join(b.From, "bridge"), b.ours, 0o755))
	return b
}

func (b *bench) at() string { return filepath.Join(b.To, "bridge") }

// run installs, and returns the lines.
func (b *bench) run(t *testing.T) string {
	t.Helper()
	results, err := b.Run(t.Context())
	testutil.Must(t, err)
	return lines(results)
}

func lines(results []Result) string {
	var s []string
	for _, r := range results {
		s = append(s, r.String())
	}
	return strings.Join(s, "\n")
}

// has fails unless the node's bridge is a file of this content, which all may execute.
func (b *bench) has(t *testing.T, content []byte) {
	t.Helper()
	at, err := os.Lstat(b.at())
	testutil.Must(t, err)
	if at.Mode() != 0o755 {
		t.Errorf("its mode is %s", at.Mode())
	}
	got, err := os.ReadFile(b.at())
	testutil.Must(t, err)
	if !bytes.Equal(got, content) {
		t.Error("it holds something else")
	}
	left, err := filepath.Glob(filepath.Join(b.To, "*"+tempSuffix))
	testutil.Must(t, err)
	if len(left) > 0 {
		t.Errorf("left over: %v", left)
	}
}

// Each case has a file of a plugin's name, the Result, and whether the file is ours afterwards.
func TestRun(t *testing.T) {
	b := newBench(t)
	script := []byte("#!/bin/sh\n")
	foreign := slices.Clone(b.newer)
	binary.LittleEndian.PutUint16(foreign[18:], uint16(elf.EM_S390)) // e_machine of elf(5)
	for name, c := range map[string]struct {
		plant func(t *testing.T)
		want  string
		after []byte
		force string
	}{
		"missing":        {plant: func(*testing.T) {}, want: "bridge: installed v1.9.1", after: b.ours},
		"older":          {plant: b.file(b.older, 0o755), want: "bridge: upgraded v1.8.0 -> v1.9.1", after: b.ours},
		"newer":          {plant: b.file(b.newer, 0o755), want: "bridge: kept: newer v2.0.0", after: b.newer, force: "bridge: replaced v1.9.1: forced"},
		"same":           {plant: b.file(b.ours, 0o755), want: "bridge: kept: it is the same", after: b.ours, force: "bridge: kept: it is the same"},
		"not executable": {plant: b.file(b.ours, 0o644), want: "bridge: repaired v1.9.1: it was not executable", after: b.ours},
		"a script":       {plant: b.file(script, 0o755), want: "bridge: kept: not a stock plugin", after: script, force: "bridge: replaced v1.9.1: forced"},
		"another program": {
			plant: b.file(self(t), 0o755), want: "bridge: kept: not a stock plugin", after: self(t), force: "bridge: replaced v1.9.1: forced",
		},
		"empty":     {plant: b.file(nil, 0o755), want: "bridge: repaired v1.9.1: it was an empty file", after: b.ours},
		"cut short": {plant: b.file(b.newer[:len(b.newer)/2], 0o755), want: "bridge: repaired v1.9.1: its end was missing", after: b.ours},
		"a page of a web server": {
			plant: b.file([]byte("<html>404</html>"), 0o755), want: "bridge: repaired v1.9.1: it was not a program", after: b.ours,
		},
		"for another machine": {
			plant: b.file(foreign, 0o755), want: "bridge: repaired v1.9.1: it was for another processor", after: b.ours,
		},
		"a dead symlink": {
			plant: b.link("cni"), want: "bridge: repaired v1.9.1: it was a symlink to cni, which is missing", after: b.ours,
		},
		"left by a crash": {
			plant: func(t *testing.T) {
				b.file(b.older, 0o755)(t)
				testutil.Must(t, os.WriteFile(b.at()+tempSuffix, b.ours[:1000], 0o644))
				testutil.Must(t, os.Symlink("/etc/passwd", filepath.Join(b.To, "portmap"+tempSuffix)))
			},
			want: "bridge: upgraded v1.8.0 -> v1.9.1", after: b.ours,
		},
	} {
		t.Run(name, func(t *testing.T) {
			testutil.Must(t, os.RemoveAll(b.To))
			testutil.Must(t, os.Mkdir(b.To, 0o755))
			c.plant(t)
			if got := b.run(t); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
			b.has(t, c.after)
			if c.force == "" {
				return
			}
			forced := *b
			forced.Force = true
			if got := forced.run(t); got != c.force {
				t.Errorf("forced: got %q, want %q", got, c.force)
			}
			b.has(t, b.ours)
		})
	}
}

// file plants a file by our name.
func (b *bench) file(content []byte, mode os.FileMode) func(*testing.T) {
	return func(t *testing.T) {
		testutil.Must(t, os.WriteFile(b.at(), content, mode))
		testutil.Must(t, os.Chmod(b.at(), mode)) // whatever the umask
	}
}

// link plants a symlink by our name.
func (b *bench) link(to string) func(*testing.T) {
	return func(t *testing.T) { testutil.Must(t, os.Symlink(to, b.at())) }
}

// A symlink is kept, also where it leads to what is not here, because it may be there on the host.
func TestRunKeepsSymlinks(t *testing.T) {
	b := newBench(t)
	outside := filepath.Join(t.TempDir(), "bridge")
	testutil.Must(t, os.WriteFile(outside, b.older, 0o755))
	testutil.Must(t, os.WriteFile(filepath.Join(b.To, "cni"), b.older, 0o755))
	for _, to := range []string{"cni", "./cni", outside, "/nowhere/on/this/machine", "../hash/bin/cni", "bridge"} {
		testutil.Must(t, os.RemoveAll(b.at()))
		b.link(to)(t)
		if got, want := b.run(t), "bridge: kept: a symlink to "+to; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		if got, err := os.Readlink(b.at()); got != to || err != nil {
			t.Errorf("the symlink to %s is one to %s no more: %v", to, got, err)
		}
		forced := *b
		forced.Force = true
		if got, want := forced.run(t), "bridge: replaced v1.9.1: forced"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		b.has(t, b.ours)
	}
	for _, path := range []string{outside, filepath.Join(b.To, "cni")} {
		if content, err := os.ReadFile(path); err != nil || !bytes.Equal(content, b.older) {
			t.Errorf("%s was written to: %v", path, err)
		}
	}
}

// One plugin that can't be installed does not keep others from it.
func TestRunGoesOn(t *testing.T) {
	b := newBench(t)
	testutil.Must(t, os.WriteFile(filepath.Join(b.From, "alpha"), []byte("#!/bin/sh\n"), 0o755))
	testutil.Must(t, os.WriteFile(filepath.Join(b.From, "README"), nil, 0o644)) // no plugin
	testutil.Must(t, os.Mkdir(filepath.Join(b.To, "alpha"), 0o755))
	if got, want := b.run(t), "alpha: kept: not a file\nbridge: installed v1.9.1"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	b.Force = true
	testutil.Must(t, os.Remove(b.at()))
	results, err := b.Run(t.Context())
	if !errors.Is(err, unix.EEXIST) && !errors.Is(err, unix.EISDIR) {
		t.Errorf("the error is %v", err)
	}
	if results[0].Action != Failed || results[0].Reason == "" || results[1].Action != Installed {
		t.Errorf("got %v", results)
	}
	b.has(t, b.ours)
	b.Names = []string{"portmap", "bridge", "bridge"}
	results, err = b.Run(t.Context())
	if got, want := lines(results), "bridge: kept: it is the same"; !strings.HasPrefix(got, want) || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %q, %v", got, err)
	}
}

// The folder is made where it is missing, for all to read.
func TestRunMakesTheFolder(t *testing.T) {
	b := newBench(t)
	b.To = filepath.Join(b.To, "opt", "cni", "bin")
	b.run(t)
	b.has(t, b.ours)
	if at, err := os.Stat(b.To); err != nil || at.Mode().Perm() != 0o755 {
		t.Errorf("its mode is %s, %v", at.Mode(), err)
	}
	b.From = filepath.Join(b.From, "nowhere")
	if _, err := b.Run(t.Context()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without a folder to take from: %v", err)
	}
	b.From = t.TempDir()
	if _, err := b.Run(t.Context()); err == nil {
		t.Error("no plugins are no fault")
	}
}

// A running plugin is not disturbed, and the next execution runs ours.
func TestRunWhileTheOldOneExecutes(t *testing.T) {
	b := newBench(t)
	b.file(b.older, 0o755)(t)
	cmd := exec.CommandContext(t.Context(), b.at())
	in, err := cmd.StdinPipe()
	testutil.Must(t, err)
	var out bytes.Buffer
	cmd.Stdout = &out
	testutil.Must(t, cmd.Start())
	b.run(t)
	b.has(t, b.ours)
	now, err := exec.CommandContext(t.Context(), b.at()).Output()
	if err != nil || string(now) != "version v1.9.1\n" {
		t.Errorf("after it: %q, %v", now, err)
	}
	testutil.Must(t, in.Close())
	if err := cmd.Wait(); err != nil || out.String() != "version v1.8.0\n" {
		t.Errorf("what ran: %q, %v", &out, err)
	}
}

// Concurrent runs take turns: one upgrades, the others have nothing to do; and at each moment the
// plugin can be executed.
func TestRunAtOnce(t *testing.T) {
	b := newBench(t)
	b.file(b.older, 0o755)(t)
	var installs sync.WaitGroup
	got := make([]string, 6)
	for n := range got {
		// In processes of their own: one that forks holds open, for a moment, what it writes.
		installs.Go(func() {
			cmd := exec.CommandContext(t.Context(), "/proc/self/exe")
			cmd.Env = append(os.Environ(), onceVariable+"=1", "FROM="+b.From, "TO="+b.To)
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Error(err)
			}
			got[n] = string(out)
		})
	}
	done := make(chan struct{})
	go func() { installs.Wait(); close(done) }()
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
		}
		if out, err := exec.CommandContext(t.Context(), b.at()).Output(); err != nil {
			t.Fatalf("executing it meanwhile: %q, %v", out, err)
		}
	}
	slices.Sort(got)
	want := append(slices.Repeat([]string{"bridge: kept: it is the same <nil>\n"}, 5), "bridge: upgraded v1.8.0 -> v1.9.1 <nil>\n")
	if !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
	b.has(t, b.ours)
}

// Waiting for another run ends with the context.
func TestRunEndsWhileItWaits(t *testing.T) {
	b := newBench(t)
	other, err := open(t.Context(), b.To)
	testutil.Must(t, err)
	defer other.close()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if results, err := b.Run(ctx); results != nil || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, %v", results, err)
	}
}

func TestMissing(t *testing.T) {
	dir := t.TempDir()
	testutil.Must(t, os.WriteFile(filepath.Join(dir, "bridge"), nil, 0o755))
	testutil.Must(t, os.Symlink("cni", filepath.Join(dir, "loopback")))
	testutil.Must(t, os.Symlink("../hash/bin/cni", filepath.Join(dir, "portmap")))
	got, err := Missing(dir, []string{"bridge", "host-local", "loopback", "portmap"})
	if want := []string{"host-local", "loopback"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
}

// A file that the disk returns with another content is not put into place.
func TestVerify(t *testing.T) {
	dir := t.TempDir()
	f, err := open(t.Context(), dir)
	testutil.Must(t, err)
	defer f.close()
	for _, bad := range []string{"", "half", "whole and more", "wHole"} {
		testutil.Must(t, os.WriteFile(filepath.Join(dir, "bridge"), []byte(bad), 0o755))
		if err := f.verify("bridge", []byte("whole")); err == nil {
			t.Errorf("%q is taken for what was written", bad)
		}
	}
}
