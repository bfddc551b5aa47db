package seccomp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"unsafe"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// listen gives this thread, and what it starts, a filter that asks the listener before each of these system calls
// (Documentation/userspace-api/seccomp_filter.rst).
func listen(calls []uint32) (listener int, err error) {
	filter := []unix.SockFilter{{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0}} // the number of struct seccomp_data
	for i, nr := range calls {
		filter = append(filter, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: nr, Jt: uint8(len(calls) - i)})
	}
	filter = append(filter,
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_USER_NOTIF})
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return 0, fmt.Errorf("giving up new privileges: %w", err)
	}
	fd, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_NEW_LISTENER, uintptr(unsafe.Pointer(&program)))
	if errno != 0 {
		return 0, fmt.Errorf("system calls can't be answered here: %w", errno)
	}
	return int(fd), nil
}

// struct seccomp_notif and seccomp_notif_resp of linux/seccomp.h.
type (
	notification struct {
		id         uint64
		pid, flags uint32
		nr         int32
		arch       uint32
		ip         uint64
		args       [6]uint64
	}
	response struct {
		id    uint64
		value int64
		errno int32
		flags uint32
	}
)

// serve calls answer for each call, and makes the call fail with the errno that it returns; 0 lets it pass. It ends, and
// closes the listener, when no thread has the filter.
func serve(listener int, answer func(*notification) unix.Errno) {
	defer unix.Close(listener)
	for {
		fds := []unix.PollFd{{Fd: int32(listener), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, -1); errors.Is(err, unix.EINTR) {
			continue
		} else if err != nil || fds[0].Revents&unix.POLLIN == 0 {
			return
		}
		var n notification
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(listener), unix.SECCOMP_IOCTL_NOTIF_RECV, uintptr(unsafe.Pointer(&n))); errno != 0 {
			continue
		}
		r := response{id: n.id, flags: unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE}
		if errno := answer(&n); errno != 0 {
			r.flags, r.errno = 0, -int32(errno)
		}
		_, _, _ = unix.Syscall(unix.SYS_IOCTL, uintptr(listener), unix.SECCOMP_IOCTL_NOTIF_SEND, uintptr(unsafe.Pointer(&r)))
	}
}

// sent returns the bytes that sendto(2) or sendmsg(2) sends; nil for another call.
func (n *notification) sent() []byte {
	at, length := n.args[1], n.args[2]
	switch n.nr {
	case unix.SYS_SENDTO:
	case unix.SYS_SENDMSG:
		// struct msghdr has at 16 where its struct iovec is: an address and a length.
		iov := n.memory(binary.NativeEndian.Uint64(n.memory(at+16, 8)), 16)
		at, length = binary.NativeEndian.Uint64(iov), binary.NativeEndian.Uint64(iov[8:])
	default:
		return nil
	}
	return n.memory(at, length)
}

// memory copies memory of the calling process; it is zero where it can't be read.
func (n *notification) memory(at, length uint64) []byte {
	b := make([]byte, max(length, 1))
	local := unix.Iovec{Base: &b[0]}
	local.SetLen(len(b))
	if _, err := unix.ProcessVMReadv(int(n.pid), []unix.Iovec{local}, []unix.RemoteIovec{{Base: uintptr(at), Len: len(b)}}, 0); err != nil {
		return make([]byte, len(b))
	}
	return b
}

// kindsOf returns the types of the netlink messages.
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
