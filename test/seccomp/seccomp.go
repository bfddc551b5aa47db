// Package seccomp makes system calls and netlink requests of a test's thread fail.
package seccomp

import (
	"runtime"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// RefuseSockets makes socket(2) fail on the test's thread for a domain, or for one protocol of it.
func RefuseSockets(t testing.TB, errno unix.Errno, domain uint32, protocol ...uint32) {
	t.Helper()
	arguments := map[int]uint32{0: domain}
	for _, p := range protocol {
		arguments[2] = p
	}
	RefuseCalls(t, errno, unix.SYS_SOCKET, arguments)
}

// RefuseCalls makes a system call fail on the test's thread if its arguments have these values, by their index. The
// thread ends with the test.
func RefuseCalls(t testing.TB, errno unix.Errno, call uint32, arguments map[int]uint32) {
	t.Helper()
	runtime.LockOSThread()
	load := func(offset uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset}
	}
	// unless skips instructions if the value differs.
	unless := func(value uint32, skip int) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: value, Jf: uint8(skip)}
	}
	answer := func(value uint32) unix.SockFilter { return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: value} }
	// struct seccomp_data: the call at 0, its arguments from 16 on, 8 bytes each; little-endian.
	filter := []unix.SockFilter{load(0), unless(call, 1+2*len(arguments))}
	left := len(arguments)
	for n, value := range arguments {
		left--
		filter = append(filter, load(uint32(16+8*n)), unless(value, 1+2*left))
	}
	filter = append(filter, answer(unix.SECCOMP_RET_ERRNO|uint32(errno)), answer(unix.SECCOMP_RET_ALLOW))
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	if err := unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&program)), 0, 0); err != nil {
		t.Skipf("can't filter system calls here: %v", err)
	}
}
