//go:build !linux

package nslock

import (
	"errors"
	"net"
)

// credentials is not supported where no agent runs.
func credentials(*net.UnixConn) (uid, pid int, err error) { return 0, 0, errors.ErrUnsupported }
