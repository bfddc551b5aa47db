package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/test/cluster"
)

// downLimit is how long a killed sandbox may take to be gone, in milliseconds.
const downLimit = 15_000

// pidFile is beside the demo's binary, so that `demo down` finds it from any folder.
func pidFile() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("finding our own binary: %w", err)
	}
	return filepath.Join(filepath.Dir(self), "demo.pid"), nil
}

// keep notes a demo that stays up, and tells how to look around in it.
func keep(pid int, config cluster.Config) error {
	path, err := pidFile()
	if err != nil {
		return err
	}
	if err := os.WriteFile(path, fmt.Appendln(nil, pid), 0o644); err != nil {
		return fmt.Errorf("noting process %d: %w", pid, err)
	}
	fmt.Print(hints(pid, config))
	return nil
}

// hints are commands to look around with; those whose tool this machine lacks are left out.
func hints(pid int, config cluster.Config) string {
	var text strings.Builder
	fmt.Fprintf(&text, "\nThe cluster stays up (process %d). To look around:\n", pid)
	enter := fmt.Sprintf("nsenter -t %d %s ", pid, namespaces())
	for _, hint := range []struct{ tool, command string }{
		{"ip", "ip netns exec node1 ip route show proto 112"},
		{"ip", "ip netns exec node1 ip -6 route show proto 112"},
		{"ip", "ip netns exec node1-a ip address"},
		{"ping", "ip netns exec node1-a ping -c 3 10.244.2.2"},
		{"nft", "ip netns exec node1 nft list table inet plainroute"},
		{"curl", "ip netns exec node1 curl -s http://127.0.0.1:9472/status"},
		{"cat", "cat " + clusterDir + "/node1/net.d/10-plainroute.conflist"},
		{"tail", "tail " + clusterDir + "/node1/agent.log"},
		{"kubectl", "kubectl --kubeconfig " + clusterDir + "/admin.kubeconfig get nodes"},
		{"curl", "curl -s --cacert " + clusterDir + "/ca.crt --cert " + clusterDir + "/admin.crt --key " + clusterDir +
			"/admin.key https://192.168.1.1:6443/api/v1/nodes"},
	} {
		if path := find(hint.tool, config); path != "" {
			fmt.Fprintf(&text, "  %s%s\n", enter, strings.Replace(hint.command, hint.tool+" ", path+" ", 1))
		}
	}
	fmt.Fprintf(&text, "To take it down:\n  make demo-down\n")
	return text.String()
}

// namespaces are nsenter's flags for the sandbox's namespaces: all, or those that a user without root may enter.
func namespaces() string {
	if os.Geteuid() == 0 {
		return "-a"
	}
	return "-U --preserve-credentials -m -n -p -i"
}

// find returns how to call a tool: by its name where it is in the path, by its path where it is among our own.
func find(tool string, config cluster.Config) string {
	if _, err := exec.LookPath(tool); err == nil {
		return tool
	}
	own := filepath.Join(config.Assets, tool)
	if _, err := os.Stat(own); err == nil {
		return own
	}
	return ""
}

// kept returns the process of a demo that was kept, held by a descriptor, so that its number can't come to mean
// another one; it is -1 when none is up.
func kept() (pid, fd int, err error) {
	path, err := pidFile()
	if err != nil {
		return 0, -1, err
	}
	content, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, -1, nil
	}
	if err != nil {
		return 0, -1, fmt.Errorf("reading the kept demo's process id: %w", err)
	}
	if pid, err = strconv.Atoi(strings.TrimSpace(string(content))); err != nil {
		return 0, -1, fmt.Errorf("reading %s: %w", path, err)
	}
	fd, err = unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return 0, -1, os.Remove(path)
	}
	if err != nil {
		return 0, -1, fmt.Errorf("opening process %d: %w", pid, err)
	}
	if !ours(pid) {
		unix.Close(fd)
		return 0, -1, os.Remove(path)
	}
	return pid, fd, nil
}

// ours reports whether a process runs our own binary, also one that was built over since.
func ours(pid int) bool {
	self, err := os.Executable()
	if err != nil {
		return false
	}
	other, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	return err == nil && strings.TrimSuffix(other, " (deleted)") == strings.TrimSuffix(self, " (deleted)")
}

func refuseSecond() error {
	pid, fd, err := kept()
	if err != nil || fd < 0 {
		return err
	}
	unix.Close(fd)
	return fmt.Errorf("a demo is up already (process %d): `make demo-down` takes it down", pid)
}

// down ends the kept demo: with its first process the kernel takes down all of it.
func down() error {
	pid, fd, err := kept()
	if err != nil {
		return err
	}
	if fd < 0 {
		fmt.Println("no demo is up")
		return nil
	}
	defer unix.Close(fd)
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil {
		return fmt.Errorf("ending process %d: %w", pid, err)
	}
	if ready, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, downLimit); err != nil || ready == 0 {
		return fmt.Errorf("waiting for the end of process %d: %w", pid, errors.Join(err, os.ErrDeadlineExceeded))
	}
	path, err := pidFile()
	if err != nil {
		return err
	}
	fmt.Printf("the demo (process %d) is taken down\n", pid)
	return os.Remove(path)
}
