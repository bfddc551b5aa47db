package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// roleVariable makes the test binary a program that uses the sandbox; without it, it tests such programs.
const roleVariable = "PLAINROUTE_SANDBOX_TEST_ROLE"

// leftover is a process that the sandboxed programs leave behind: it has to end with the sandbox.
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

// play runs the program's part inside.
func play(role string, box *Box) int {
	if err := exec.CommandContext(context.Background(), leftover[0], leftover[1:]...).Start(); err != nil {
		return 99
	}
	switch role {
	case "exit":
		return 7
	case "crash":
		_ = unix.Kill(os.Getpid(), unix.SIGKILL)
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
	<-time.After(time.Minute)
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
