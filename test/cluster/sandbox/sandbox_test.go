package sandbox

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// roleVariable makes the test binary a program that uses the sandbox; without it, it tests such programs.
const roleVariable = "PLAINROUTE_SANDBOX_TEST_ROLE"

// leftover is what the sandboxed programs start and leave behind: it has to go with the sandbox.
var leftover = []string{"sleep", "86399"}

func TestMain(m *testing.M) {
	role := os.Getenv(roleVariable)
	if role == "" {
		os.Exit(m.Run())
	}
	box, code, err := Enter(func(pid int) error {
		fmt.Println("kept", pid)
		return nil
	})
	if box == nil || err != nil {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(code)
	}
	os.Exit(play(role, box))
}

// play is what the program does inside.
func play(role string, box *Box) int {
	if err := exec.Command(leftover[0], leftover[1:]...).Start(); err != nil {
		return 99
	}
	switch role {
	case "exit":
		return 7
	case "crash":
		unix.Kill(os.Getpid(), unix.SIGKILL)
	case "signal":
		signals := make(chan os.Signal, 1)
		signal.Notify(signals, unix.SIGTERM)
		fmt.Println("ready")
		<-signals
		return 30
	case "write":
		return write()
	case "keep":
		if box.Keep() != nil {
			return 98
		}
	default:
		fmt.Println("ready")
	}
	time.Sleep(time.Minute)
	return 97
}

// write tries the places where a program inside must not, and may, leave something.
func write() int {
	if err := os.WriteFile("/etc/plainroute-sandbox-test", nil, 0o644); !errors.Is(err, unix.EROFS) {
		return 96
	}
	if err := os.WriteFile("/run/plainroute-sandbox-test", nil, 0o644); err != nil {
		return 95
	}
	if !strings.HasPrefix(os.TempDir(), "/run/") || os.Getpid() == 1 || os.Getenv(stageVariable) != "" {
		return 94
	}
	return 0
}

func program(t *testing.T, role string) (*exec.Cmd, *bytes.Buffer) {
	t.Helper()
	skipUnlessPermitted(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), roleVariable+"="+role)
	cmd.Stderr = os.Stderr
	var out bytes.Buffer
	cmd.Stdout = &out
	return cmd, &out
}

// skipUnlessPermitted tries, with a program that does nothing, whether a sandbox can be made here.
func skipUnlessPermitted(t *testing.T) {
	t.Helper()
	try := exec.Command("/proc/self/exe")
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
	time.Sleep(200 * time.Millisecond)
	if len(leftovers(t)) == 0 {
		t.Error("the sandbox did not stay")
	}
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	gone(t)
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
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if len(leftovers(t)) == 0 {
			return
		}
	}
	t.Errorf("processes outlived their sandbox: %v", leftovers(t))
}
