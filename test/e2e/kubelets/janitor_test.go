package kubelets

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
)

// deadPID is a process id that is not in use.
func deadPID(t *testing.T) int {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "true")
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	return cmd.Process.Pid
}

// testCgroups are those of a cluster whose janitor is dead, with cgroups of pods in them.
func testCgroups(t *testing.T) (roots, leaves []string) {
	t.Helper()
	if err := Fit(1); errors.Is(err, ErrNotHere) {
		t.Skip(err)
	}
	name := cgroupPrefix + strconv.Itoa(deadPID(t))
	leaves, err := makeCgroups(name + "/node-1/kubepods/pod1")
	if errors.Is(err, ErrNotHere) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, leaf := range leaves {
		roots = append(roots, filepath.Join(leaf, "../../.."))
	}
	t.Cleanup(func() {
		if err := removeCgroups(roots); err != nil {
			t.Error(err)
		}
	})
	return roots, leaves
}

func TestSweepRemovesWhatIsLeft(t *testing.T) {
	roots, _ := testCgroups(t)
	sweepAll(t)
	for _, dir := range roots {
		if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is still there: %v", dir, err)
		}
	}
}

// A cluster may outlive its janitor.
func TestSweepLetsProcessesBe(t *testing.T) {
	roots, leaves := testCgroups(t)
	cmd := exec.CommandContext(t.Context(), "sleep", "600")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	for _, leaf := range leaves {
		if err := os.WriteFile(filepath.Join(leaf, "cgroup.procs"), []byte(strconv.Itoa(cmd.Process.Pid)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	sweepAll(t)
	for _, dir := range append(roots, leaves...) {
		if _, err := os.Stat(dir); err != nil {
			t.Errorf("%s is gone, with a process in it: %v", dir, err)
		}
	}
}

func sweepAll(t *testing.T) {
	t.Helper()
	above, err := parents()
	if err != nil {
		t.Fatal(err)
	}
	if err := sweep(above); err != nil {
		t.Fatal(err)
	}
}
