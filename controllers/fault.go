package controllers

import (
	"errors"
	"io/fs"
	"syscall"
)

// ownFault tells whether an error, though it met a peer's route, is a fault of
// this node: without CAP_NET_ADMIN no route at all can be made.
func ownFault(err error) bool { return errors.Is(err, fs.ErrPermission) }

// advise adds to an error what to do about it, where that is known.
func advise(err error) string {
	switch {
	case errors.Is(err, syscall.EPERM):
		return err.Error() + " (the agent needs CAP_NET_ADMIN)"
	case errors.Is(err, syscall.EROFS):
		return err.Error() + " (mount it writable into the agent's pod)"
	case errors.Is(err, syscall.EACCES):
		return err.Error() + " (the folder's or file's owner must let the agent write)"
	case errors.Is(err, syscall.ENOSPC):
		return err.Error() + " (the file system is full)"
	}
	return err.Error()
}
