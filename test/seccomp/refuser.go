package seccomp

import (
	"encoding/binary"
	"errors"
	"os"
	"runtime"
	"slices"
	"sync"
	"testing"
	"unsafe"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// A Refuser makes netlink requests of the test's thread fail, one or all of a type, as the kernel does when it is
// short of memory. The thread ends with the test.
type Refuser struct {
	t        *testing.T
	listener int

	mu      sync.Mutex
	refuses func(kinds []uint16) unix.Errno
}

// answered are the system calls that a Refuser intercepts: those that send netlink requests. A call that package unix
// makes without notifying Go's scheduler, such as socket(2), can't be among them: the garbage collector would wait for the
// thread, and the thread for the goroutine that answers it.
var answered = []uint32{unix.SYS_SENDTO, unix.SYS_SENDMSG}

// NewRefuser returns a Refuser that refuses nothing.
func NewRefuser(t *testing.T) *Refuser {
	t.Helper()
	runtime.LockOSThread()
	filter := []unix.SockFilter{{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0}} // the number of struct seccomp_data
	for i, nr := range answered {
		filter = append(filter, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: nr, Jt: uint8(len(answered) - i)})
	}
	filter = append(filter,
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_USER_NOTIF})
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	fd, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_NEW_LISTENER, uintptr(unsafe.Pointer(&program)))
	if errno != 0 {
		t.Skipf("can't answer system calls here: %v", errno)
	}
	r := &Refuser{t: t, listener: int(fd)}
	r.Nothing()
	go r.serve()
	t.Cleanup(r.Nothing)
	return r
}

// Set makes a request fail with the errno that f returns for the types of its messages; 0 lets it pass.
func (r *Refuser) Set(f func([]uint16) unix.Errno) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.refuses = f
}

// Nothing lets all requests pass.
func (r *Refuser) Nothing() { r.Set(func([]uint16) unix.Errno { return 0 }) }

// Requests refuses netlink requests of the given types.
func (r *Refuser) Requests(errno unix.Errno, kinds ...uint16) {
	r.Set(func(sent []uint16) unix.Errno {
		if slices.ContainsFunc(sent, func(kind uint16) bool { return slices.Contains(kinds, kind) }) {
			return errno
		}
		return 0
	})
}

// Nth refuses the nth request. The function that it returns stops that and returns the types of the refused messages, none
// if there were fewer requests.
func (r *Refuser) Nth(errno unix.Errno, n int) func() []uint16 {
	count := 0
	var refused []uint16
	r.Set(func(sent []uint16) unix.Errno {
		if len(sent) == 0 {
			return 0
		}
		if count++; count == n {
			refused = sent
			return errno
		}
		return 0
	})
	return func() []uint16 {
		r.Nothing()
		return refused
	}
}

// Recording refuses requests of one type and records the types of all. The function that it returns stops that and returns
// the record.
func (r *Refuser) Recording(errno unix.Errno, kind uint16) func() []uint16 {
	var kinds []uint16
	r.Set(func(sent []uint16) unix.Errno {
		kinds = append(kinds, sent...)
		if slices.Contains(sent, kind) {
			return errno
		}
		return 0
	})
	return func() []uint16 {
		r.Nothing()
		return kinds
	}
}

// struct seccomp_notif and seccomp_notif_resp of linux/seccomp.h.
type (
	seccompNotification struct {
		id         uint64
		pid, flags uint32
		nr         int32
		arch       uint32
		ip         uint64
		args       [6]uint64
	}
	seccompResponse struct {
		id    uint64
		value int64
		errno int32
		flags uint32
	}
)

// serve answers until no thread has the filter.
func (r *Refuser) serve() {
	defer unix.Close(r.listener)
	for {
		fds := []unix.PollFd{{Fd: int32(r.listener), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, -1); errors.Is(err, unix.EINTR) {
			continue
		} else if err != nil || fds[0].Revents&unix.POLLIN == 0 {
			return
		}
		var n seccompNotification
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(r.listener), unix.SECCOMP_IOCTL_NOTIF_RECV, uintptr(unsafe.Pointer(&n))); errno != 0 {
			continue
		}
		answer := seccompResponse{id: n.id, flags: unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE}
		r.mu.Lock()
		errno := r.refuses(kindsOf(bytesOf(&n)))
		r.mu.Unlock()
		if errno != 0 {
			answer.flags, answer.errno = 0, -int32(errno)
		}
		_, _, _ = unix.Syscall(unix.SYS_IOCTL, uintptr(r.listener), unix.SECCOMP_IOCTL_NOTIF_SEND, uintptr(unsafe.Pointer(&answer)))
	}
}

// bytesOf returns the bytes that a call sends.
func bytesOf(n *seccompNotification) []byte {
	at, length := n.args[1], n.args[2]
	switch n.nr {
	case unix.SYS_SENDTO:
	case unix.SYS_SENDMSG:
		// struct msghdr has at 16 where its struct iovec is: an address and a length.
		iov := memory(binary.NativeEndian.Uint64(memory(at+16, 8)), 16)
		at, length = binary.NativeEndian.Uint64(iov), binary.NativeEndian.Uint64(iov[8:])
	default:
		return nil
	}
	return memory(at, length)
}

// memory copies memory of this process.
func memory(at, length uint64) []byte {
	b := make([]byte, max(length, 1))
	local := unix.Iovec{Base: &b[0]}
	local.SetLen(len(b))
	if _, err := unix.ProcessVMReadv(os.Getpid(), []unix.Iovec{local}, []unix.RemoteIovec{{Base: uintptr(at), Len: len(b)}}, 0); err != nil {
		return make([]byte, len(b))
	}
	return b
}

func kindsOf(b []byte) (kinds []uint16) {
	for len(b) >= unix.SizeofNlMsghdr {
		length := int(binary.NativeEndian.Uint32(b))
		if length < unix.SizeofNlMsghdr || length > len(b) {
			break
		}
		kinds = append(kinds, uint16(netlink.HeaderType(binary.NativeEndian.Uint16(b[4:]))))
		b = b[min(len(b), (length+3)&^3):]
	}
	return kinds
}
