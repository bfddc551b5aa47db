package main

import (
	"errors"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
)

var update = flag.Bool("update", false, "write what is got into the scripts as what is wanted")

// TestMain makes this binary serve as plainroute too, for the scripts to run.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"plainroute": main, pluginName: main})
}

// Each script of testdata/script runs the real program, in a folder of its own
// and with an environment of its own.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		UpdateScripts:       *update,
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Deadline:            time.Now().Add(8 * time.Minute), // for an agent that should have ended
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": exits, "locked": locked, "awaits": awaits,
		},
	})
}

// exits runs a command that must end with an exit code: exits CODE COMMAND...
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	code := 0
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		code = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if code != want {
		ts.Fatalf("exit code %d, want %d", code, want)
	}
}

// awaits waits until a file that a command in the background writes has a text so many times:
// awaits TIMES TEXT FILE
func awaits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: awaits TIMES TEXT FILE")
	}
	times, err := strconv.Atoi(args[0])
	ts.Check(err)
	var content []byte
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		content, err = os.ReadFile(ts.MkAbs(args[2]))
		if err == nil && strings.Count(string(content), args[1]) >= times {
			return
		}
	}
	ts.Fatalf("no %q %d times after a minute: %v\n%s", args[1], times, err, content)
}

// locked holds the lock of a run folder until the script ends, as an agent does.
func locked(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: locked FOLDER")
	}
	dir := ts.MkAbs(args[0])
	ts.Check(os.MkdirAll(dir, 0o755))
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	ts.Check(err)
	ts.Defer(func() { lock.Close() })
	ts.Check(unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB))
}
