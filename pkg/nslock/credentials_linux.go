package nslock

import (
	"errors"
	"net"

	"golang.org/x/sys/unix"
)

// credentials returns those of the process that called listen. The kernel has them for a connection
// that was not accepted yet, so a stopped agent is found too.
func credentials(conn *net.UnixConn) (uid, pid int, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, 0, err
	}
	var peer *unix.Ucred
	controlErr := raw.Control(func(fd uintptr) {
		peer, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err := errors.Join(err, controlErr); err != nil {
		return 0, 0, err
	}
	return int(peer.Uid), int(peer.Pid), nil
}
