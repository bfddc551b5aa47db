package cni

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
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
	if err := flock(file); err != nil {
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

// A RemovedError is returned for a folder that is mounted here, as in a container, and was removed
// where it came from. No file can be created in such a mount, even after the folder was created
// again: it takes a new mount.
type RemovedError struct{ Folder string }

func (e *RemovedError) Error() string {
	return fmt.Sprintf("folder %s was removed on the host, so the mount in this container is dead; restart the container to mount it again", e.Folder)
}

// Mounted returns a RemovedError if one of the folders is removed.
func (s Store) Mounted() error {
	for _, folder := range s.folders() {
		if removed(folder) {
			return &RemovedError{folder}
		}
	}
	return nil
}

// removed reports whether a folder can be opened and has no name, which needs a mount. The kernel
// marks its path (d_path of fs/d_path.c). With overlayfs the link count may be 1 (ovl_getattr).
func removed(folder string) bool {
	const mark = " (deleted)"
	file, err := os.Open(folder)
	if err != nil {
		return false
	}
	defer file.Close()
	path, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(int(file.Fd())))
	return err == nil && strings.HasSuffix(path, mark) && !strings.HasSuffix(folder, mark)
}
