package sandbox

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func program(t *testing.T, role string) (*exec.Cmd, *bytes.Buffer) {
	t.Helper()
	skipUnlessPermitted(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = append(os.Environ(), roleVariable+"="+role)
	cmd.Stderr = os.Stderr
	var out bytes.Buffer
	cmd.Stdout = &out
	return cmd, &out
}

// skipUnlessPermitted tries, with a program that does nothing, whether a sandbox can be made here.
func skipUnlessPermitted(t *testing.T) {
	t.Helper()
	try := exec.CommandContext(t.Context(), "/proc/self/exe")
	try.Env = append(os.Environ(), roleVariable+"=exit")
	if output, _ := try.CombinedOutput(); strings.Contains(string(output), ErrNotPermitted.Error()) {
		t.Skipf("%s", output)
	}
}

func TestExitCode(t *testing.T) {
	for role, want := range map[string]int{"exit": 7, "crash": 128 + int(unix.SIGKILL), "write": 0} {
		cmd, _ := program(t, role)
		cmd.Stderr = nil
		err := cmd.Run()
		if got := cmd.ProcessState.ExitCode(); got != want {
			t.Errorf("%s: exit code %d (%v); want %d", role, got, err, want)
		}
	}
	if _, err := os.Stat("/run/plainroute-sandbox-test"); err == nil {
		t.Error("a file written inside is seen outside")
	}
	gone(t)
}

func TestSignalIsPassedOn(t *testing.T) {
	cmd, _ := program(t, "signal")
	ready(t, cmd)
	if err := cmd.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 30 {
		t.Errorf("exit code %d; want 30", code)
	}
	gone(t)
}

func TestKilledHostTakesAllDown(t *testing.T) {
	cmd, _ := program(t, "hang")
	ready(t, cmd)
	if len(leftovers(t)) == 0 {
		t.Fatal("the program inside started nothing")
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	gone(t)
}

func TestKeep(t *testing.T) {
	cmd, out := program(t, "keep")
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Sscanf(out.String(), "kept %d", &pid); err != nil {
		t.Fatalf("%q: %v", out, err)
	}
	<-time.After(200 * time.Millisecond)
	if len(leftovers(t)) == 0 {
		t.Error("the sandbox did not stay")
	}
	note := filepath.Join(t.TempDir(), "pid")
	if err := Note(note, pid); err != nil {
		t.Fatal(err)
	}
	kept, err := Noted(note)
	if err != nil || kept == nil {
		t.Fatalf("process %d is not found: %v", pid, err)
	}
	defer kept.Close()
	if err := kept.End(); err != nil {
		t.Fatal(err)
	}
	if again, err := Noted(note); again != nil || err != nil {
		t.Errorf("after its end it is found as %v, %v", again, err)
	}
	gone(t)
}

// A recorded pid may be another program's by now, which must not be ended.
func TestNotedIsOurOwn(t *testing.T) {
	note := filepath.Join(t.TempDir(), "pid")
	if err := Note(note, 1); err != nil {
		t.Fatal(err)
	}
	if kept, err := Noted(note); kept != nil || err != nil {
		t.Errorf("process 1 is taken for ours: %v, %v", kept, err)
	}
}

// ready starts the program and waits for its first line.
func ready(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	cmd.Stdout = nil
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fscanln(out, new(string)); err != nil {
		t.Fatal(err)
	}
}

// leftovers are the processes of this machine that a program inside a sandbox has started.
func leftovers(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, file := range files {
		line, err := os.ReadFile(file)
		if err == nil && string(line) == strings.Join(leftover, "\x00")+"\x00" {
			found = append(found, file)
		}
	}
	return found
}

// gone waits until nothing of a sandbox is left.
func gone(t *testing.T) {
	t.Helper()
	for range 1000 {
		if len(leftovers(t)) == 0 {
			return
		}
		<-time.After(10 * time.Millisecond)
	}
	t.Errorf("processes outlived their sandbox: %v", leftovers(t))
}
