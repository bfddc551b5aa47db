package nslock

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/test/testutil"
)

// holderVariable makes the test binary a process that holds the socket in a way of its own.
const holderVariable = "PLAINROUTE_NSLOCK_TEST_HOLDER"

// The ways to hold the socket.
const (
	asAgent    = "agent"    // by Take
	asListener = "listener" // listening, without any answer
	asBound    = "bound"    // bound, and never listening
)

func TestMain(m *testing.M) {
	if way := os.Getenv(holderVariable); way != "" {
		if err := holdAs(way); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// holdAs holds the socket until standard input ends.
func holdAs(way string) error {
	switch way {
	case asAgent:
		if _, err := Take(context.Background(), "holder"); err != nil {
			return err
		}
	default:
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		if err := unix.Bind(fd, &unix.SockaddrUnix{Name: name}); err != nil {
			return err
		}
		if way == asListener {
			if err := unix.Listen(fd, 1); err != nil {
				return err
			}
		}
	}
	fmt.Println("holds")
	_, _ = os.Stdin.Read(make([]byte, 1))
	return nil
}

// freshNamespace moves the test to a network namespace of its own. Its thread ends with the test.
func freshNamespace(t *testing.T) {
	t.Helper()
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Skipf("can't make network namespaces here: %v", err)
	}
}

// startHolder starts a process of a user that holds the socket, and waits until it does.
func startHolder(t *testing.T, way string, uid uint32) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), holderVariable+"="+way)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	input, err := cmd.StdinPipe()
	testutil.Must(t, err)
	output, err := cmd.StdoutPipe()
	testutil.Must(t, err)
	testutil.Must(t, cmd.Start())
	t.Cleanup(func() {
		_ = input.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	if line, err := bufio.NewReader(output).ReadString('\n'); line != "holds\n" {
		t.Fatalf("the holder says %q, %v", line, err)
	}
	return cmd
}

// heldBy fails the test unless the lock is held by whom the text names.
func heldBy(t *testing.T, err error, want string) {
	t.Helper()
	var held *HeldError
	if !errors.As(err, &held) || held.Holder != want {
		t.Fatalf("got %v, want that it is held by %s", err, want)
	}
}

func TestOneAtATime(t *testing.T) {
	freshNamespace(t)
	testutil.Must(t, Find())
	first, err := Take(t.Context(), "node one, run folder /run/one")
	testutil.Must(t, err)
	want := fmt.Sprintf("node one, run folder /run/one, pid %d", os.Getpid())
	_, err = Take(t.Context(), "node two")
	heldBy(t, err, want)
	heldBy(t, Find(), want)
	testutil.Must(t, first.Close())
	testutil.Must(t, Find())
	second, err := Take(t.Context(), "node two")
	testutil.Must(t, err)
	testutil.Must(t, second.Close())
}

// Another network namespace has a lock of its own.
func TestEachNamespaceHasItsOwn(t *testing.T) {
	freshNamespace(t)
	first, err := Take(t.Context(), "first")
	testutil.Must(t, err)
	defer first.Close()
	testutil.Must(t, unix.Unshare(unix.CLONE_NEWNET))
	second, err := Take(t.Context(), "second")
	testutil.Must(t, err)
	testutil.Must(t, second.Close())
}

// Of many that start at once, one gets the lock, and each other learns of it.
func TestManyAtOnce(t *testing.T) {
	freshNamespace(t)
	namespace, err := os.Open("/proc/thread-self/ns/net")
	testutil.Must(t, err)
	defer namespace.Close()
	const agents = 20
	locks, errs := make([]*Lock, agents), make([]error, agents)
	var all sync.WaitGroup
	for i := range agents {
		all.Go(func() {
			runtime.LockOSThread() // the thread ends with it
			if errs[i] = unix.Setns(int(namespace.Fd()), unix.CLONE_NEWNET); errs[i] == nil {
				locks[i], errs[i] = Take(context.Background(), "one of many")
			}
		})
	}
	all.Wait()
	holders := 0
	for i, lock := range locks {
		if lock != nil {
			holders++
			testutil.Must(t, lock.Close())
			continue
		}
		heldBy(t, errs[i], fmt.Sprintf("one of many, pid %d", os.Getpid()))
	}
	if holders != 1 {
		t.Errorf("%d of %d have the lock", holders, agents)
	}
}

// A crash frees the lock.
func TestCrashFrees(t *testing.T) {
	freshNamespace(t)
	holder := startHolder(t, asAgent, 0)
	_, err := Take(t.Context(), "us")
	heldBy(t, err, fmt.Sprintf("holder, pid %d", holder.Process.Pid))
	testutil.Must(t, holder.Process.Kill())
	_ = holder.Wait()
	lock, err := Take(t.Context(), "us")
	testutil.Must(t, err)
	testutil.Must(t, lock.Close())
}

// A stopped agent does not answer and is identified by its process all the same.
func TestStoppedHolderIsNamed(t *testing.T) {
	freshNamespace(t)
	holder := startHolder(t, asAgent, 0)
	testutil.Must(t, holder.Process.Signal(syscall.SIGSTOP))
	var status syscall.WaitStatus
	_, err := syscall.Wait4(holder.Process.Pid, &status, syscall.WUNTRACED, nil)
	testutil.Must(t, err)
	for range 3 {
		_, err = Take(t.Context(), "us")
		heldBy(t, err, fmt.Sprintf("it does not answer, pid %d", holder.Process.Pid))
	}
}

// A process of another user than root or ours can't be an agent, and keeps none from starting.
func TestOtherUsersDoNotCount(t *testing.T) {
	const nobody = 65534
	for way, want := range map[string]string{
		asAgent:    "a process of user 65534",
		asListener: "a process of user 65534",
		asBound:    "does not listen",
	} {
		t.Run(way, func(t *testing.T) {
			freshNamespace(t)
			startHolder(t, way, nobody)
			lock, err := Take(t.Context(), "us")
			if lock != nil || errors.As(err, new(*HeldError)) || !strings.Contains(fmt.Sprint(err), want) {
				t.Errorf("got %v, want %q", err, want)
			}
			testutil.Must(t, Find())
		})
	}
}

// Two agents that run without the lock, because something else held its name, find each other once
// it is free.
func TestSeekersFindEachOther(t *testing.T) {
	freshNamespace(t)
	stranger := startHolder(t, asListener, 65534)
	namespace, err := os.Open("/proc/thread-self/ns/net")
	testutil.Must(t, err)
	defer namespace.Close()
	ended := make(chan error, 2)
	for i := range 2 {
		go func() {
			runtime.LockOSThread()
			err := unix.Setns(int(namespace.Fd()), unix.CLONE_NEWNET)
			if err == nil {
				err = Seek(t.Context(), fmt.Sprintf("seeker %d", i))
			}
			ended <- err
		}()
	}
	testutil.Must(t, stranger.Process.Kill())
	select {
	case err := <-ended:
		if !errors.As(err, new(*HeldError)) || !strings.Contains(err.Error(), "seeker") {
			t.Errorf("the first to end returned %v", err)
		}
	case <-time.After(time.Minute):
		t.Error("both go on")
	}
}

// Connections that are never read, never closed, or as many as a process can make cost the holder
// neither memory nor its answers.
func TestIdleConnectionsCostNothing(t *testing.T) {
	freshNamespace(t)
	lock, err := Take(t.Context(), "us")
	testutil.Must(t, err)
	defer lock.Close()
	before := runtime.NumGoroutine()
	var idle []net.Conn
	for range 200 {
		conn, err := net.Dial("unix", name)
		testutil.Must(t, err)
		idle = append(idle, conn)
	}
	heldBy(t, Find(), fmt.Sprintf("us, pid %d", os.Getpid()))
	if now := runtime.NumGoroutine(); now > before {
		t.Errorf("%d goroutines were there and %d are", before, now)
	}
	for _, conn := range idle {
		testutil.Must(t, conn.Close())
	}
}
