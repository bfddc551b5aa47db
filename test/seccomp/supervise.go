package seccomp

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// launched is set in the environment of a process that Supervise starts.
const launched = "SECCOMP_LAUNCH"

// listenerFD is where that process has the listener of its filter, which the supervisor takes.
const listenerFD = 500

// fileCalls change files, or may.
var fileCalls = []uint32{
	unix.SYS_OPENAT, unix.SYS_WRITE, unix.SYS_PWRITE64, unix.SYS_COPY_FILE_RANGE, unix.SYS_FTRUNCATE, unix.SYS_MKDIRAT, unix.SYS_UNLINKAT,
	unix.SYS_RENAMEAT, unix.SYS_RENAMEAT2, unix.SYS_SYMLINKAT, unix.SYS_LINKAT, unix.SYS_FCHMOD, unix.SYS_FCHMODAT,
}

// Launch turns a process that Supervise started into the program. Call it first in TestMain; elsewhere it does nothing.
func Launch() {
	if os.Getenv(launched) == "" {
		return
	}
	fail := func(err error) { panic(fmt.Errorf("launching %q: %w", os.Args, err)) }
	runtime.LockOSThread()
	if err := os.Unsetenv(launched); err != nil {
		fail(err)
	}
	listener, err := listen(append(fileCalls, answered...))
	if err != nil {
		fail(err)
	}
	if err := unix.Dup3(listener, listenerFD, unix.O_CLOEXEC); err != nil {
		fail(err)
	}
	if err := unix.Kill(unix.Getpid(), unix.SIGSTOP); err != nil { // until the supervisor has it
		fail(err)
	}
	fail(unix.Exec(os.Args[1], os.Args[1:], os.Environ()))
}

// Supervise starts a command, by start, and calls allow before each change that it makes to files, to settings below
// /proc/sys, and by netlink to the kernel, with the change in words. If allow returns false the process is killed, and the
// change is not made. Output to standard output and standard error is not a change. TestMain of the test must call Launch.
func Supervise(cmd *exec.Cmd, start func() error, allow func(change string) bool) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("finding this program: %w", err)
	}
	cmd.Args = append([]string{self, cmd.Path}, cmd.Args[1:]...)
	cmd.Path, cmd.Env = self, append(cmd.Environ(), launched+"=1")
	if err := start(); err != nil {
		return err
	}
	pid := cmd.Process.Pid
	if err := unix.Waitid(unix.P_PID, pid, nil, unix.WSTOPPED, nil); err != nil {
		return fmt.Errorf("waiting for the filter of process %d: %w", pid, err)
	}
	process, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return fmt.Errorf("opening process %d: %w", pid, err)
	}
	defer unix.Close(process)
	listener, err := unix.PidfdGetfd(process, listenerFD, 0)
	if err != nil {
		return fmt.Errorf("taking the listener of process %d: %w", pid, err)
	}
	go serve(listener, func(n *notification) unix.Errno {
		if change := n.change(); change != "" && !allow(change) {
			_ = unix.Kill(pid, unix.SIGKILL) // it may have ended
			return unix.EPERM                // the call that is let pass would be made in spite of the signal
		}
		return 0
	})
	return cmd.Process.Signal(syscall.SIGCONT)
}

// change describes the change that a call makes; empty: none.
func (n *notification) change() string {
	switch n.nr {
	case unix.SYS_SENDTO, unix.SYS_SENDMSG:
		return changeOf(kindsOf(n.sent()))
	case unix.SYS_WRITE, unix.SYS_PWRITE64, unix.SYS_FTRUNCATE, unix.SYS_FCHMOD:
		return n.changeOfFile(n.args[0])
	case unix.SYS_COPY_FILE_RANGE:
		return n.changeOfFile(n.args[2])
	case unix.SYS_OPENAT:
		if n.args[2]&(unix.O_CREAT|unix.O_TRUNC) == 0 {
			return ""
		}
		return "open " + n.text(n.args[1])
	case unix.SYS_MKDIRAT:
		return "mkdir " + n.text(n.args[1])
	case unix.SYS_UNLINKAT:
		return "unlink " + n.text(n.args[1])
	case unix.SYS_FCHMODAT:
		return "chmod " + n.text(n.args[1])
	case unix.SYS_SYMLINKAT:
		return "symlink " + n.text(n.args[2])
	case unix.SYS_RENAMEAT, unix.SYS_RENAMEAT2, unix.SYS_LINKAT:
		return "rename " + n.text(n.args[1]) + " to " + n.text(n.args[3])
	}
	return ""
}

// changeOfFile describes a change of an open file, other than standard output and standard error. A socket or a pipe has no
// path, so it is left out.
func (n *notification) changeOfFile(fd uint64) string {
	path, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", n.pid, int32(fd)))
	if err != nil || fd <= uint64(unix.Stderr) || !filepath.IsAbs(path) || strings.HasPrefix(path, "/dev/") {
		return ""
	}
	return "write " + path
}

// text returns the string at an address.
func (n *notification) text(at uint64) string {
	var text []byte
	for length := uint64(0); length < unix.PathMax; {
		part := 64 - at%64 // no page ends in between
		b := n.memory(at, part)
		if end := bytes.IndexByte(b, 0); end >= 0 {
			return string(append(text, b[:end]...))
		}
		text, at, length = append(text, b...), at+part, length+part
	}
	return string(text)
}

// changeOf describes netlink messages of which one at least is not a question. Types of rtnetlink come in groups of four, NEW,
// DEL, GET and SET (linux/rtnetlink.h); those of nftables change something in batches only, the first message of which has a
// type below (linux/netfilter/nfnetlink.h); conntrack has GET as 1.
func changeOf(kinds []uint16) string {
	const conntrack, get = unix.NFNL_SUBSYS_CTNETLINK << 8, 1
	for _, kind := range kinds {
		rtnetlink := kind >= unix.RTM_BASE && kind < 1<<8 && (kind-unix.RTM_BASE)%4 != 2
		if rtnetlink || kind >= conntrack && kind < conntrack+1<<8 && kind&0xff != get {
			return fmt.Sprintf("netlink %d", kinds)
		}
	}
	return ""
}
