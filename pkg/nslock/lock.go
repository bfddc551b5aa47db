// Package nslock admits one agent to a network namespace, whatever its folders are: routes, the
// nftables table and the bridge carry one mark per network namespace, so a second agent would
// delete what the first one made.
//
// The lock is an abstract unix socket (unix(7)), whose names belong to the network namespace. The
// kernel gives a name to one socket at a time and frees it when that socket's process ends, so a
// crash leaves nothing behind.
//
// Any process of the network namespace can take the name first. The kernel reports the user of a
// listening socket (SO_PEERCRED), so only a process of root or of our own user counts as an agent;
// any other holder is reported and can't keep an agent from starting.
package nslock

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"
	"unicode"

	"golang.org/x/sys/unix"
)

// name is the socket's; the @ makes it abstract.
const name = "@plainroute"

const (
	// listenTimeout is how long Take waits for a holder that is bound but not listening yet, which
	// takes an agent microseconds.
	listenTimeout = 2 * time.Second
	// attemptInterval is the time between Take's attempts meanwhile.
	attemptInterval = 20 * time.Millisecond
	// seekInterval is the time between Seek's attempts while another process holds the name.
	seekInterval = 5 * time.Second
	// pause after each answer limits the cost of a process that connects in a loop.
	pause = time.Millisecond
	// ioTimeout bounds one exchange on either side.
	ioTimeout = 500 * time.Millisecond
)

// A HeldError is returned when an agent, or a cleanup, holds the lock.
type HeldError struct {
	// Holder is the line that the holder sent about itself, with its process id.
	Holder string
}

func (e *HeldError) Error() string {
	return "another agent runs in this network namespace: " + e.Holder
}

// A ForeignError is returned when a process that can't be an agent holds the lock's name.
type ForeignError struct{ UID, PID int }

func (e *ForeignError) Error() string {
	return fmt.Sprintf("a process of user %d (pid %d), which is not an agent, holds the socket %s", e.UID, e.PID, name)
}

// Take takes the lock of the calling thread's network namespace. While it is held, each process
// that connects is sent self, one line.
//
// It returns a HeldError if an agent holds the lock. Any other error means that no agent was found
// and that the lock can't be had: another process holds its name (ForeignError, or an error of
// connecting if that does not listen), or the kernel refuses the socket.
func Take(ctx context.Context, self string) (*Lock, error) {
	for deadline := time.Now().Add(listenTimeout); ; {
		listener, err := new(net.ListenConfig).Listen(ctx, "unix", name)
		if err == nil {
			l := &Lock{listener, self, make(chan struct{})}
			go l.answer()
			return l, nil
		}
		if !errors.Is(err, unix.EADDRINUSE) {
			return nil, fmt.Errorf("taking the lock of this network namespace: %w", err)
		}
		// The holder may be between bind and listen, or have ended since.
		err = identifyHolder()
		if !errors.Is(err, errSilent) || time.Now().After(deadline) {
			return nil, err
		}
		select {
		case <-time.After(attemptInterval):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// Seek takes the lock as soon as it can be had and holds it until ctx ends. It is for an agent that
// runs without the lock because another process holds its name: two such agents find each other
// when the name is free again. It returns a HeldError if another agent was faster.
func Seek(ctx context.Context, self string) error {
	for {
		lock, err := Take(ctx, self)
		switch {
		case err == nil:
			<-ctx.Done()
			return lock.Close()
		case errors.As(err, new(*HeldError)):
			return err
		}
		select {
		case <-time.After(seekInterval):
		case <-ctx.Done():
			return nil
		}
	}
}

// Find returns a HeldError if an agent holds the lock, and takes nothing.
func Find() error {
	err := identifyHolder()
	if errors.As(err, new(*HeldError)) {
		return err
	}
	return nil
}

// A Lock is held until Close, or until its process ends.
type Lock struct {
	listener net.Listener
	self     string
	ended    chan struct{}
}

// Close releases the lock.
func (l *Lock) Close() error {
	err := l.listener.Close()
	<-l.ended
	return err
}

// answer sends self to each process that connects, one after the other. A line fits into the
// socket's buffer, so no process can make it wait.
func (l *Lock) answer() {
	defer close(l.ended)
	for {
		conn, err := l.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			_ = conn.SetDeadline(time.Now().Add(ioTimeout))
			_, _ = conn.Write([]byte(l.self + "\n"))
			_ = conn.Close()
		}
		time.Sleep(pause)
	}
}

// errSilent is returned when the name is taken, or was a moment ago, and no socket listens by it.
var errSilent = errors.New("the socket " + name + " is taken, and its holder does not listen")

const maxAnswer = 512

// identifyHolder connects to the holder and returns an error that identifies it: a HeldError, a
// ForeignError, errSilent, or why the connection failed.
func identifyHolder() error {
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: name, Net: "unix"})
	// EAGAIN: more connections wait to be accepted than the socket has room for.
	if errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.EAGAIN) {
		return fmt.Errorf("%w: %w", errSilent, err)
	}
	if err != nil {
		return fmt.Errorf("identifying the holder of the lock of this network namespace: %w", err)
	}
	defer conn.Close()
	uid, pid, err := credentials(conn)
	if err != nil {
		return fmt.Errorf("identifying the holder of the lock of this network namespace: %w", err)
	}
	if uid != 0 && uid != os.Geteuid() {
		return &ForeignError{uid, pid}
	}
	return &HeldError{describe(answerOf(conn), pid)}
}

// answerOf returns the line that the holder sends; it is empty if none comes in time.
func answerOf(conn net.Conn) string {
	_ = conn.SetDeadline(time.Now().Add(ioTimeout))
	line, err := bufio.NewReader(io.LimitReader(conn, maxAnswer)).ReadString('\n')
	if err != nil {
		return ""
	}
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return -1
	}, line)
}

// describe adds the process id, which is 0 if the holder is in a PID namespace that isn't visible
// to us, such as another container's.
func describe(answer string, pid int) string {
	if answer == "" {
		answer = "it does not answer"
	}
	if pid == 0 {
		return answer + ", in another PID namespace"
	}
	return fmt.Sprintf("%s, pid %d", answer, pid)
}
