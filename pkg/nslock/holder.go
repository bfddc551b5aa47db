package nslock

import (
	"bufio"
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
