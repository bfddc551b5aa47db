package inject

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/test/netlab"
)

// Clock is the wall clock of one process and its children. It can be stepped; the machine's own clock, and the
// monotonic one, go on as they are.
//
// The process has to ask the kernel for the time, rather than a page that the kernel shares with it (the vDSO), and a
// seccomp filter hands its calls to us:
//
//	process: clock_gettime(CLOCK_REALTIME) ──> filter ──> listener ──> us: now + step, written into its memory
type Clock struct {
	step  atomic.Int64
	asked atomic.Int64
}

// Step moves the clock, back if by is negative.
func (c *Clock) Step(by time.Duration) { c.step.Add(int64(by)) }

// Asked counts how often the process asked for the time.
func (c *Clock) Asked() int64 { return c.asked.Load() }

// start starts cmd under the clock. The calling thread is under it from then on and has to be thrown away.
func (c *Clock) start(cmd *exec.Cmd) error {
	listener, err := listen()
	if err != nil {
		return err
	}
	go c.answer(listener)
	// Traced, it stops before its first instruction.
	cmd.SysProcAttr.Ptrace = true
	if err := cmd.Start(); err != nil {
		return err
	}
	pid := cmd.Process.Pid
	var status unix.WaitStatus
	if _, err := unix.Wait4(pid, &status, 0, nil); err != nil || !status.Stopped() {
		return fmt.Errorf("waiting for process %d to stop (%v): %w", pid, status, err)
	}
	if err := hideSharedClock(pid); err != nil {
		return err
	}
	if err := unix.PtraceDetach(pid); err != nil {
		return fmt.Errorf("letting process %d go: %w", pid, err)
	}
	return nil
}

// listen puts the calling thread, and what it starts, under a filter, and returns where its questions arrive.
func listen() (fd int, err error) {
	// Offsets in struct seccomp_data (linux/seccomp.h): 0 the call's number, 16 the first argument.
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_CLOCK_GETTIME, Jf: 3},
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 16},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.CLOCK_REALTIME, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_USER_NOTIF},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	got, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER,
		unix.SECCOMP_FILTER_FLAG_NEW_LISTENER, uintptr(unsafe.Pointer(&program)))
	if errno != 0 {
		return 0, fmt.Errorf("filtering system calls: %w", errno)
	}
	return int(got), nil
}

// Structures of linux/seccomp.h.
type (
	question struct {
		ID         uint64
		PID, Flags uint32
		Number     int32
		Arch       uint32
		Pointer    uint64
		Args       [6]uint64
	}
	reply struct {
		ID    uint64
		Value int64
		Error int32
		Flags uint32
	}
)

// answer serves requests for the time until no process is under the filter any more.
func (c *Clock) answer(listener int) {
	defer unix.Close(listener)
	for {
		ready := []unix.PollFd{{Fd: int32(listener), Events: unix.POLLIN}}
		_, err := unix.Poll(ready, -1)
		if err == nil && ready[0].Revents&unix.POLLIN == 0 {
			return
		}
		var asked question
		if err == nil {
			err = control(listener, unix.SECCOMP_IOCTL_NOTIF_RECV, unsafe.Pointer(&asked))
		}
		// A signal has interrupted us or the process, which will repeat its call.
		if errors.Is(err, unix.EINTR) || errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return
		}
		c.asked.Add(1)
		answered := reply{ID: asked.ID}
		if err := c.write(int(asked.PID), uintptr(asked.Args[1])); err != nil {
			answered.Error = -int32(unix.EFAULT)
		}
		// ENOENT, the same here.
		_ = control(listener, unix.SECCOMP_IOCTL_NOTIF_SEND, unsafe.Pointer(&answered))
	}
}

func control(fd int, request uintptr, argument unsafe.Pointer) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(argument)); errno != 0 {
		return errno
	}
	return nil
}

// write writes the time, a struct timespec, into a process' memory.
func (c *Clock) write(pid int, at uintptr) error {
	now := unix.NsecToTimespec(time.Now().UnixNano() + c.step.Load())
	local := []unix.Iovec{{Base: (*byte)(unsafe.Pointer(&now)), Len: uint64(unsafe.Sizeof(now))}}
	remote := []unix.RemoteIovec{{Base: at, Len: int(unsafe.Sizeof(now))}}
	_, err := unix.ProcessVMWritev(pid, local, remote, 0)
	return err
}

// Entries of the auxiliary vector (linux/auxvec.h).
const (
	auxNull       = 0
	auxIgnore     = 1
	auxSharedCode = 33 // AT_SYSINFO_EHDR: where the vDSO is
)

// hideSharedClock removes the vDSO from the auxiliary vector of a process that has not begun yet: its stack holds argc,
// the arguments, 0, the environment, 0, and then pairs of a type and a value.
func hideSharedClock(pid int) error {
	memory, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", pid), os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("opening the memory of process %d: %w", pid, err)
	}
	defer memory.Close()
	at, err := stackOf(pid)
	if err != nil {
		return err
	}
	word := func() (uint64, error) {
		var content [8]byte
		_, err := memory.ReadAt(content[:], at)
		at += 8
		return binary.NativeEndian.Uint64(content[:]), err
	}
	count, err := word()
	at += 8 * (int64(count) + 1)
	for value := uint64(1); err == nil && value != 0; {
		value, err = word()
	}
	for err == nil {
		var kind uint64
		switch kind, err = word(); {
		case err != nil:
		case kind == auxNull:
			return nil
		case kind == auxSharedCode:
			_, err = memory.WriteAt(binary.NativeEndian.AppendUint64(nil, auxIgnore), at-8)
			return err
		default:
			at += 8
		}
	}
	return fmt.Errorf("reading the stack of process %d: %w", pid, err)
}

// stackOf is where the stack of a process began: field 28 of /proc/PID/stat (proc_pid_stat(5)).
func stackOf(pid int) (int64, error) {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, fmt.Errorf("looking at process %d: %w", pid, err)
	}
	// The program's name, field 2, may hold blanks.
	_, rest, _ := strings.Cut(string(content), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 26 {
		return 0, fmt.Errorf("looking at process %d: %q is cut short", pid, content)
	}
	return strconv.ParseInt(fields[25], 10, 64)
}

// Start starts cmd in a namespace under the clock. The thread that does is thrown away: it can't leave the filter.
func (c *Clock) Start(n *netlab.Namespace, cmd *exec.Cmd) error {
	if err := n.DoForever(func() error { return c.start(cmd) }); err != nil {
		return fmt.Errorf("starting under a clock of its own: %w", err)
	}
	return nil
}
