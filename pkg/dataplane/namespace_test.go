package dataplane

import (
	"errors"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/test/testutil"
)

// here returns the number of this thread's network namespace.
func here() (uint64, error) {
	var stat unix.Stat_t
	err := unix.Stat("/proc/thread-self/ns/net", &stat)
	return stat.Ino, err
}

// elsewhere runs something on a thread of the process's first namespace, which is not the
// machine's. The process's first thread is left out, because Go never ends it.
func elsewhere(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if unix.Gettid() == os.Getpid() {
			done <- elsewhere(f)
			return
		}
		err := f()
		done <- err
	}()
	return <-done
}

// dropCapability takes a capability from this thread.
func dropCapability(capability int) error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return err
	}
	data[0].Effective &^= 1 << capability
	return unix.Capset(&header, &data[0])
}

// A thread of another namespace moves into a namespace for as long as a function runs, and goes
// back.
func TestThreadMovesAndGoesBack(t *testing.T) {
	m := newMachine(t)
	want, err := here()
	m.must(err)
	refused := errors.New("refused")
	m.must(elsewhere(func() error {
		before, err := here()
		if err != nil {
			return err
		}
		var inside uint64
		err = m.namespace.do(func() error { inside, err = here(); return errors.Join(err, refused) })
		if !errors.Is(err, refused) {
			t.Errorf("the function's error became %v", err)
		}
		after, err := here()
		if inside != want || after != before || before == want {
			t.Errorf("from %d to %d and to %d, want %d", before, inside, after, want)
		}
		return err
	}))
}

// A namespace that can't be looked at or entered is reported, before anything is done there.
func TestNamespaceThatCantBeEntered(t *testing.T) {
	m := newMachine(t)
	closed, err := openNamespace()
	m.must(err)
	m.must(closed.close())
	if err := closed.close(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("closing again: %v", err)
	}
	m.must((*namespace)(nil).close())
	uts, err := os.Open("/proc/self/ns/uts") // is of another kind
	m.must(err)
	defer uts.Close()
	for name, c := range map[string]struct {
		to, from *namespace
		want     error
	}{
		"closed": {closed, m.namespace, os.ErrClosed}, "from a closed one": {m.namespace, closed, os.ErrClosed}, "of another kind": {&namespace{uts}, m.namespace, unix.EINVAL},
	} {
		if err := c.to.enter(c.from); !errors.Is(err, c.want) || !strings.HasPrefix(err.Error(), "entering a network namespace: ") {
			t.Errorf("%s: %v", name, err)
		}
	}
	ran := false
	if err := closed.do(func() error { ran = true; return nil }); !errors.Is(err, os.ErrClosed) || ran {
		t.Errorf("got %v, ran %t", err, ran)
	}
}

// The agent is in its namespace already, and needs no CAP_SYS_ADMIN to stay.
func TestStayingTakesNoCapability(t *testing.T) {
	m := newMachine(t)
	var other *namespace
	m.must(elsewhere(func() (err error) { other, err = openNamespace(); return err }))
	defer other.close()
	m.must(dropCapability(unix.CAP_SYS_ADMIN)) // the thread ends with the test
	ran := false
	if err := m.namespace.do(func() error { ran = true; return nil }); err != nil || !ran {
		t.Errorf("got %v, ran %t", err, ran)
	}
	if err := other.do(func() error { return nil }); !errors.Is(err, unix.EPERM) {
		t.Errorf("moving to another: %v", err)
	}
}

// A thread that can't go back ends, and no other goroutine runs on it; all others are used again.
func TestThreadThatCantGoBackEnds(t *testing.T) {
	m := newMachine(t)
	tid := 0
	err := elsewhere(func() error {
		return m.namespace.do(func() error {
			tid = unix.Gettid()
			return dropCapability(unix.CAP_SYS_ADMIN)
		})
	})
	if !errors.Is(err, unix.EPERM) {
		t.Errorf("going back without CAP_SYS_ADMIN: %v", err)
	}
	task := "/proc/self/task/" + strconv.Itoa(tid)
	testutil.AwaitTrue(t, "the thread is gone", func() bool {
		_, err := os.Stat(task)
		return errors.Is(err, os.ErrNotExist)
	})
	closed, err := openNamespace()
	m.must(err)
	m.must(closed.close())
	var limit unix.Rlimit
	m.must(unix.Getrlimit(unix.RLIMIT_NOFILE, &limit))
	const times = 200
	for name, c := range map[string]struct {
		to    *namespace
		files uint64
		want  error
	}{"that moved": {m.namespace, limit.Cur, nil}, "that could not move": {closed, limit.Cur, os.ErrClosed}, "without a descriptor": {m.namespace, 0, unix.EMFILE}} {
		used := map[int]bool{}
		m.must(unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: c.files, Max: limit.Max}))
		for range times {
			err = elsewhere(func() error {
				used[unix.Gettid()] = true
				return c.to.do(func() error { return nil })
			})
			if !errors.Is(err, c.want) {
				break
			}
		}
		m.must(unix.Setrlimit(unix.RLIMIT_NOFILE, &limit))
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
		if len(used) > times/2 {
			t.Errorf("%d goroutines %s ran on %d threads", times, name, len(used))
		}
	}
}
