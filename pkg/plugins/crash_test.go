package plugins

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/test/testutil"
)

// The test binary can do this instead of testing: install once, forever, or into a file system of
// its own.
const (
	onceVariable    = "PLUGINS_ONCE"
	foreverVariable = "PLUGINS_FOREVER"
	mountVariable   = "PLUGINS_MOUNT"
)

func TestMain(m *testing.M) {
	unix.Umask(0o077) // what is installed is for all to execute all the same
	i := Install{From: os.Getenv("FROM"), To: os.Getenv("TO"), Force: true}
	switch {
	case os.Getenv(onceVariable) != "":
		i.Force = false
		results, err := i.Run(context.Background())
		fmt.Println(lines(results), err)
		os.Exit(0)
	case os.Getenv(foreverVariable) != "":
		fmt.Fprintln(os.Stderr, installForever(i, os.Getenv(foreverVariable)))
		os.Exit(1)
	case os.Getenv(mountVariable) != "":
		fmt.Println(installMounted(i, os.Getenv(mountVariable)))
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// installForever installs from one folder and another in turn, and ends with what
// keeps it from that.
func installForever(i Install, other string) error {
	for n := 0; ; n++ {
		if _, err := i.Run(context.Background()); err != nil {
			return err
		}
		i.From, other = other, i.From
		if n == 0 {
			fmt.Println("installing")
		}
	}
}

// Killed at any moment, what has a plugin's name is the old one or the new one, and
// the next run leaves nothing over.
func TestRunKilled(t *testing.T) {
	b := newBench(t)
	other := filepath.Join(t.TempDir(), "other")
	testutil.Must(t, os.Mkdir(other, 0o755))
	testutil.Must(t, os.WriteFile(filepath.Join(other, "bridge"), b.older, 0o755))
	b.file(b.older, 0o755)(t)
	halves := 0
	// On a slow machine the moments are drawn from longer and longer times, until one is during a
	// write.
	for n := 0; n < 40 || halves == 0 && n < 400; n++ {
		killed(t, b.Install, other, 8*time.Millisecond*time.Duration(1+n/20))
		content, err := os.ReadFile(b.at())
		testutil.Must(t, err)
		if !bytes.Equal(content, b.ours) && !bytes.Equal(content, b.older) {
			t.Fatalf("after a crash it is neither the old one nor the new one: %d bytes", len(content))
		}
		if at, err := os.Stat(b.at()); err != nil || at.Mode() != 0o755 {
			t.Fatalf("after a crash: %v, %v", at.Mode(), err)
		}
		if _, err := os.Lstat(b.at() + tempSuffix); err == nil {
			halves++
		}
	}
	if halves == 0 {
		t.Error("no crash came in the midst: this test tests nothing")
	}
	b.Force = true
	b.run(t)
	b.has(t, b.ours)
}

// While it is replaced over and over, a plugin can be executed at any moment: nothing
// that is open for writing has its name (ETXTBSY of execve(2)).
func TestRunWhileOthersExecute(t *testing.T) {
	b := newBench(t)
	other := filepath.Join(t.TempDir(), "other")
	testutil.Must(t, os.Mkdir(other, 0o755))
	testutil.Must(t, os.WriteFile(filepath.Join(other, "bridge"), b.older, 0o755))
	end := installing(t, b.Install, other)
	defer end()
	seen := map[string]int{}
	for range 200 {
		out, err := exec.CommandContext(t.Context(), b.at()).Output()
		testutil.Must(t, err)
		seen[string(out)]++
	}
	if len(seen) != 2 {
		t.Errorf("what was executed said %v", seen)
	}
}

// killed starts a program that installs, and kills it at a random moment of a time.
func killed(t *testing.T, i Install, other string, within time.Duration) {
	t.Helper()
	end := installing(t, i, other)
	time.Sleep(rand.N(within))
	end()
}

// installing starts a program that installs from two folders in turn; it is ended
// with what is returned.
func installing(t *testing.T, i Install, other string) (end func()) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe")
	cmd.Env = append(os.Environ(), foreverVariable+"="+other, "FROM="+i.From, "TO="+i.To)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	testutil.Must(t, err)
	testutil.Must(t, cmd.Start())
	if _, err := fmt.Fscanln(out, new(string)); err != nil {
		t.Fatal("the program does not install:", err)
	}
	return func() {
		testutil.Must(t, cmd.Process.Kill())
		_ = cmd.Wait() // it was killed
	}
}

// installMounted mounts a tmpfs with options over the folder, and returns Run's error, and what is
// in the folder then.
func installMounted(i Install, options string) string {
	var flags uintptr
	for _, o := range strings.Split(options, ",") {
		flags |= map[string]uintptr{"ro": unix.MS_RDONLY, "noexec": unix.MS_NOEXEC}[o]
	}
	data := "size=16m"
	if strings.Contains(options, "full") {
		data = "size=1m"
	}
	if err := unix.Mount("none", i.To, "tmpfs", flags, data); err != nil {
		return "mounting: " + err.Error()
	}
	results, err := i.Run(context.Background())
	left, e := os.ReadDir(i.To)
	return fmt.Sprint(lines(results), "\n", err, "\n", left, e)
}

// A problem of the host's folder is returned with its remediation, and nothing is left.
func TestRunOnUnfitFileSystems(t *testing.T) {
	b := newBench(t)
	for options, want := range map[string][]string{
		"rw":     {"bridge: installed v1.9.1", "<nil>", "[- bridge] <nil>"},
		"ro":     {"bridge: failed", "read-only file system", "cni.binDir", "[] <nil>"},
		"noexec": {"mounted with noexec", "remount it with exec", "[] <nil>"},
		"full":   {"bridge: failed", "no space left on device", "30 MB", "[] <nil>"},
	} {
		t.Run(options, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), "/proc/self/exe")
			cmd.Env = append(os.Environ(), mountVariable+"="+options, "FROM="+b.From, "TO="+b.To)
			cmd.SysProcAttr = &syscall.SysProcAttr{
				Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNS,
				UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
				GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
			}
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Skip("no user namespace to mount in:", err)
			}
			for _, part := range want {
				if !strings.Contains(string(out), part) {
					t.Errorf("%q is not in:\n%s", part, out)
				}
			}
		})
	}
}

// Another user's folder needs more than root without capabilities.
func TestExplainPermission(t *testing.T) {
	err := explain(&os.PathError{Op: "openat", Path: "bridge", Err: unix.EACCES})
	for _, part := range []string{"openat bridge: permission denied", "dacOverride", "seLinuxOptions"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q is not in %q", part, err)
		}
	}
}
