package seccomp

import (
	"runtime"
	"slices"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// A Refuser makes netlink requests of the test's thread fail, one or all of a type, as the kernel does when it is
// short of memory. The thread ends with the test.
type Refuser struct {
	t *testing.T

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
	listener, err := listen(answered)
	if err != nil {
		t.Skip(err)
	}
	r := &Refuser{t: t}
	r.Nothing()
	go serve(listener, r.answer)
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

// answer refuses a call or lets it pass.
func (r *Refuser) answer(n *notification) unix.Errno {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.refuses(kindsOf(n.sent()))
}
