package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var (
	binary = flag.String("cluster", "../../../../bin/cluster", "the program that is tested, beside all binaries that it needs")
	kills  = flag.Int("kills", 3, "how many times to interrupt, and to kill, at a random moment")
)

// TestNothingIsLeft ends clusters in all ways and compares the machine with its earlier state:
// processes, namespaces, mounts, cgroups.
func TestNothingIsLeft(t *testing.T) {
	if os.Getenv("E2E") == "" {
		t.Skip("E2E is unset: this starts clusters, one after the other, for a minute or two")
	}
	t.Run("when the command has ended", func(t *testing.T) {
		r := start(t, "false")
		r.until(t, r.ended)
		r.ends(t, 1)
	})
	for signal, code := range map[syscall.Signal]int{unix.SIGINT: interrupted, unix.SIGKILL: -1} {
		t.Run(fmt.Sprintf("%s while containers run", signal), func(t *testing.T) {
			r := start(t, "sh", "-c", pods)
			r.until(t, func() bool { return strings.Contains(r.printed(t), atWork) || r.ended() })
			r.signal(t, signal)
			r.ends(t, code)
		})
		for range *kills {
			// Starting takes longer on a busy machine, and then there is less to be left.
			moment := rand.N(10 * time.Second)
			t.Run(fmt.Sprintf("%s after %s", signal, moment), func(t *testing.T) {
				r := start(t, "sleep", "600")
				r.untilAfter(t, moment)
				r.signal(t, signal)
				r.ends(t, code)
			})
		}
	}
	t.Run("when its janitor is killed too, after the next one", func(t *testing.T) {
		r := start(t, "sleep", "600")
		r.untilAfter(t, 5*time.Second)
		r.killJanitor(t)
		r.signal(t, unix.SIGKILL)
		_ = r.cmd.Wait()
		r.goneBut(t, "/sys/fs/cgroup/")
		next := start(t, "true")
		next.until(t, next.ended)
		next.ends(t, 0)
		r.gone(t)
	})
}

// pods runs containers on nodes without a network until it is stopped, and prints a line once they
// run.
const pods = `set -e
kubectl apply -f - <<END
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: busy}
spec:
  selector: {matchLabels: {app: busy}}
  template:
    metadata: {labels: {app: busy}}
    spec:
      hostNetwork: true
      tolerations: [{operator: Exists}]
      containers: [{name: busy, image: "localhost/workload:1", args: [serve, "-port=18099"]}]
END
kubectl rollout status daemonset/busy --timeout=2m
echo ` + atWork + `
sleep 600`

const atWork = "containers are at work"

// running is a cluster, and its traces on the machine while it ran.
type running struct {
	cmd            *exec.Cmd
	output, mounts string
	// namespaces are those that are not this machine's own; processes are numbers and start times.
	namespaces, processes map[string]bool
	janitor               int
}

func start(t *testing.T, command ...string) *running {
	t.Helper()
	dir := t.TempDir()
	r := &running{
		cmd:    exec.CommandContext(context.Background(), *binary, append([]string{"run", "--nodes", "2", "--logs", dir, "--"}, command...)...),
		output: filepath.Join(dir, "output"), mounts: mounts(t),
		namespaces: map[string]bool{}, processes: map[string]bool{},
	}
	output, err := os.Create(r.output)
	if err != nil {
		t.Fatal(err)
	}
	defer output.Close()
	r.cmd.Stdout, r.cmd.Stderr = output, output
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.cmd.Process.Kill() })
	return r
}

func (r *running) printed(t *testing.T) string {
	t.Helper()
	content, err := os.ReadFile(r.output)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// ended reports whether the program has ended and was not waited for yet.
func (r *running) ended() bool {
	state, _, err := stat(r.cmd.Process.Pid)
	return err == nil && state == "Z"
}

// look notes all processes that the program has started, and their namespaces.
func (r *running) look(t *testing.T) {
	t.Helper()
	children := map[int][]process{}
	for _, one := range processes(t) {
		children[one.parent] = append(children[one.parent], one)
	}
	for next := children[r.cmd.Process.Pid]; len(next) > 0; next = next[1:] {
		one := next[0]
		next = append(next, children[one.pid]...)
		r.processes[one.id()] = true
		if one.name == "cluster-janitor" {
			r.janitor = one.pid
		}
		for _, namespace := range one.foreign() {
			r.namespaces[namespace] = true
		}
	}
}

// until looks until something is true.
func (r *running) until(t *testing.T, done func() bool) {
	t.Helper()
	for began := time.Now(); ; time.Sleep(100 * time.Millisecond) {
		r.look(t)
		if done() {
			return
		}
		if time.Since(began) > 5*time.Minute {
			t.Fatalf("output after %s:\n%s", time.Since(began), r.printed(t))
		}
	}
}

func (r *running) untilAfter(t *testing.T, moment time.Duration) {
	t.Helper()
	end := time.Now().Add(moment)
	r.until(t, func() bool { return !time.Now().Before(end) })
}

func (r *running) signal(t *testing.T, signal syscall.Signal) {
	t.Helper()
	t.Logf("there were %d processes and %d namespaces", len(r.processes), len(r.namespaces))
	if err := r.cmd.Process.Signal(signal); err != nil {
		t.Fatal(err)
	}
}

func (r *running) killJanitor(t *testing.T) {
	t.Helper()
	if r.janitor == 0 {
		t.Fatal("there is no janitor")
	}
	if err := unix.Kill(r.janitor, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

// ends waits for the program's end and for everything to be gone.
func (r *running) ends(t *testing.T, code int) {
	t.Helper()
	err := r.cmd.Wait()
	if r.cmd.ProcessState.ExitCode() == notHere {
		t.Skip(r.printed(t))
	}
	if got := r.cmd.ProcessState.ExitCode(); got != code {
		t.Errorf("exit code %d (%v); want %d\n%s", got, err, code, r.printed(t))
	}
	r.gone(t)
}

// gone waits until nothing is left, and fails the test with the remainder.
func (r *running) gone(t *testing.T) {
	t.Helper()
	r.goneBut(t, "nothing")
}

// goneBut is gone, but allows entries with a prefix.
func (r *running) goneBut(t *testing.T, prefix string) {
	t.Helper()
	began := time.Now()
	for {
		left := slices.DeleteFunc(r.left(t), func(one string) bool { return strings.HasPrefix(one, prefix) })
		if len(left) == 0 {
			t.Logf("nothing is left %s later", time.Since(began).Round(10*time.Millisecond))
			return
		}
		if time.Since(began) > time.Minute {
			t.Fatalf("this is left:\n%s", strings.Join(left, "\n"))
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func (r *running) left(t *testing.T) []string {
	t.Helper()
	var left []string
	for _, one := range processes(t) {
		in := slices.ContainsFunc(one.foreign(), func(name string) bool { return r.namespaces[name] })
		if in || r.processes[one.id()] {
			left = append(left, fmt.Sprintf("process %d %s", one.pid, one.name))
		}
	}
	if now := mounts(t); now != r.mounts {
		left = append(left, "mounts:\n"+now+"before:\n"+r.mounts)
	}
	for _, pattern := range []string{"/sys/fs/cgroup/%s", "/sys/fs/cgroup/*/%s", "/sys/fs/cgroup/*/*/*/%s"} {
		found, err := filepath.Glob(fmt.Sprintf(pattern, fmt.Sprintf("plainroute-e2e-%d", r.janitor)))
		if err != nil {
			t.Fatal(err)
		}
		left = append(left, found...)
	}
	return left
}

func mounts(t *testing.T) string {
	t.Helper()
	content, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

type process struct {
	pid, parent int
	name, start string
}

// processes are those of the machine. Some may end during the read, which is not an error.
func processes(t *testing.T) []process {
	t.Helper()
	folders, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	var all []process
	for _, folder := range folders {
		pid, err := strconv.Atoi(filepath.Base(folder))
		if err != nil {
			t.Fatal(err)
		}
		state, fields, err := stat(pid)
		if err != nil || state == "Z" {
			continue
		}
		parent, err := strconv.Atoi(fields[1])
		if err != nil {
			t.Fatal(err)
		}
		line, _ := os.ReadFile(filepath.Join(folder, "cmdline"))
		name, _, _ := strings.Cut(string(line), "\x00")
		all = append(all, process{pid: pid, parent: parent, name: name, start: fields[19]})
	}
	return all
}

var errShort = errors.New("a line of /proc/PID/stat is too short")

// stat returns the fields of proc_pid_stat(5) from the state on.
func stat(pid int) (state string, fields []string, err error) {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", nil, err
	}
	_, rest, _ := strings.Cut(string(content), ") ")
	if fields = strings.Fields(rest); len(fields) < 20 {
		return "", nil, errShort
	}
	return fields[0], fields, nil
}

func (p process) id() string { return fmt.Sprintf("%d since %s", p.pid, p.start) }

// foreign are the process's namespaces that we are not in.
func (p process) foreign() []string {
	var all []string
	for _, kind := range []string{"mnt", "net", "pid", "ipc", "uts", "cgroup"} {
		own, err := os.Readlink("/proc/self/ns/" + kind)
		if err != nil {
			continue
		}
		other, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", p.pid, kind))
		if err == nil && other != own {
			all = append(all, other)
		}
	}
	return all
}
