package cni

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// A Lock admits one agent to a run folder, and ends with the process.
//
// If the run folder is emptied, the lock's file is gone while the lock lasts, and a second agent
// would lock a file of its own. So each Write checks whether the file is still the locked one, and
// locks a new one if it is not; the slower one of two agents then writes no more. Because the
// folder is watched, that takes milliseconds.
type Lock struct {
	path string

	mu   sync.Mutex
	file *os.File
}

// TakeLock makes the run folder if it is missing, and locks it. It refuses a folder that every user
// may write to, because root executes what the config names.
func (s Store) TakeLock() (*Lock, error) {
	if err := s.makeRunDir(); err != nil {
		return nil, err
	}
	at, err := os.Stat(s.RunDir)
	if err != nil {
		return nil, fmt.Errorf("reading the mode of the run folder: %w", err)
	}
	if at.Mode().Perm()&0o002 != 0 {
		return nil, fmt.Errorf("using the run folder: every user may write to %s (%s)", s.RunDir, at.Mode())
	}
	if removed(s.RunDir) {
		return nil, &RemovedError{s.RunDir}
	}
	l := &Lock{path: s.lock()}
	if err := l.Renew(); err != nil {
		return nil, err
	}
	return l, nil
}

// makeRunDir makes the run folder, readable by all whatever the umask. It refuses a symlink,
// through which another user could redirect what is written.
func (s Store) makeRunDir() error {
	at, err := os.Lstat(s.RunDir)
	switch {
	case errors.Is(err, os.ErrNotExist):
		err = errors.Join(os.MkdirAll(s.RunDir, 0o755), os.Chmod(s.RunDir, 0o755))
	case err == nil && !at.IsDir():
		err = fmt.Errorf("%s is not a folder (%s)", s.RunDir, at.Mode())
	}
	if err != nil {
		return fmt.Errorf("making the run folder: %w", err)
	}
	return nil
}

// Renew locks the lock's file, unless it is locked already.
func (l *Lock) Renew() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.held() {
		return nil
	}
	file, err := os.OpenFile(l.path, os.O_CREATE|os.O_RDWR|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return fmt.Errorf("opening the lock: %w", err)
	}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return errors.Join(fmt.Errorf("locking %s: another agent runs on this node: %w", l.path, err), file.Close())
	}
	if l.file != nil {
		_ = l.file.Close() // its file is gone
	}
	l.file = file
	return file.Chmod(0o644)
}

// held reports whether the file at the lock's path is the one that we have locked.
func (l *Lock) held() bool {
	if l.file == nil {
		return false
	}
	ours, err := l.file.Stat()
	if err != nil {
		return false
	}
	there, err := os.Lstat(l.path)
	return err == nil && os.SameFile(ours, there)
}

// Close releases the lock.
func (l *Lock) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.file.Close()
}
