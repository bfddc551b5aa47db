package nslock

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"
	"unicode"

	"golang.org/x/sys/unix"
)

// errSilent is returned when the name is taken, or was a moment ago, and no socket that listens
// says whose it is.
var errSilent = errors.New("the socket " + name + " is taken, and its holder does not listen")

// longestAnswer bounds what is read of a holder, in bytes.
const longestAnswer = 512

// ask connects to the holder and returns who it is as an error: a HeldError, a ForeignError,
// errSilent, or what keeps us from asking.
func ask() error {
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: name, Net: "unix"})
	// EAGAIN: more connections wait to be accepted than the socket has room for.
	if errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.EAGAIN) {
		return fmt.Errorf("%w: %w", errSilent, err)
	}
	if err != nil {
		return fmt.Errorf("asking who holds the lock of this network namespace: %w", err)
	}
	defer conn.Close()
	uid, pid, err := credentials(conn)
	if err != nil {
		return fmt.Errorf("asking who holds the lock of this network namespace: %w", err)
	}
	if !ownUser(uid) {
		return &ForeignError{uid, pid}
	}
	return &HeldError{describe(answerOf(conn), pid)}
}

// answerOf reads the holder's line; it is empty if none comes in time.
func answerOf(conn net.Conn) string {
	_ = conn.SetDeadline(time.Now().Add(talkLimit))
	line, err := bufio.NewReader(io.LimitReader(conn, longestAnswer)).ReadString('\n')
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

// describe adds the process id, which is 0 if the holder is in a PID namespace that we can't see
// into, such as another container's.
func describe(answer string, pid int) string {
	if answer == "" {
		answer = "it does not answer"
	}
	if pid == 0 {
		return answer + ", in another PID namespace"
	}
	return fmt.Sprintf("%s, pid %d", answer, pid)
}
