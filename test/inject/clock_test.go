package inject

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/plainroute/plainroute/test/netlab"
	"github.com/plainroute/plainroute/test/testutil"
)

// clockVariable makes the test's program print, again and again, the time that it sees.
const clockVariable = "PLAINROUTE_PRINT_THE_TIME"

func printTheTime() {
	start := time.Now()
	for {
		now := time.Now()
		fmt.Println(now.UnixNano(), int64(now.Sub(start)))
		time.Sleep(10 * time.Millisecond)
	}
}

// A step shows in the process' wall clock at once, and in nothing else: not in its monotonic clock, not in ours.
func TestClockStepsForOneProcess(t *testing.T) {
	testutil.NeedSandbox(t)
	here, err := netlab.Own()
	testutil.Must(t, err)
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe")
	cmd.Env = append(os.Environ(), clockVariable+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{}
	output, err := cmd.StdoutPipe()
	testutil.Must(t, err)
	clock := &Clock{}
	testutil.Must(t, clock.Start(here, cmd))
	lines := bufio.NewScanner(output)
	for _, step := range []time.Duration{0, 24 * time.Hour, -24 * time.Hour} {
		clock.Step(step)
		var seen time.Time
		var elapsed int64
		var off time.Duration
		for line := range 3000 { // the first may have been written before the step
			if !lines.Scan() {
				t.Fatal("the process ended")
			}
			var wall int64
			if _, err := fmt.Sscan(lines.Text(), &wall, &elapsed); err != nil {
				t.Fatal(err)
			}
			seen = time.Unix(0, wall)
			off = time.Until(seen) - time.Duration(clock.step.Load())
			if line >= 10 && off.Abs() <= time.Second {
				break
			}
		}
		if off.Abs() > time.Second || elapsed < 0 || elapsed > int64(time.Minute) {
			t.Errorf("stepped by %s, the process sees %s after %s; that is %s off", step, seen, time.Duration(elapsed), off)
		}
	}
	if clock.Asked() < 30 {
		t.Errorf("asked for the time %d times; want it asked each time", clock.Asked())
	}
	testutil.Must(t, cmd.Process.Kill())
	_ = cmd.Wait()
}
