package plugins

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// tempSuffix is that of files before they are renamed into place. The names are fixed and written
// under the lock only, so a file with one was left by a crash.
const tempSuffix = ".plainroute-new"

const lockWait = 50 * time.Millisecond // between attempts at the lock, which is held for about a second

// folder is a locked folder of plugins. As an os.Root it follows no symlink to the outside, because
// that would lead elsewhere in a container than on the host.
type folder struct {
	root *os.Root
	self *os.File // holds the lock
}

// open makes the folder if it is missing, and locks it.
func open(ctx context.Context, path string) (*folder, error) {
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		if err := errors.Join(os.MkdirAll(path, 0o755), os.Chmod(path, 0o755)); err != nil {
			return nil, err
		}
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, err
	}
	self, err := root.Open(".")
	if err != nil {
		return nil, errors.Join(err, root.Close())
	}
	f := &folder{root, self}
	if err := errors.Join(executable(root), f.lock(ctx)); err != nil {
		f.close()
		return nil, err
	}
	return f, nil
}

func (f *folder) close() {
	_ = f.self.Close() // both were only read from
	_ = f.root.Close()
}

// lock waits for other installations into the folder. The lock is on the folder itself, so it
// leaves no file behind.
func (f *folder) lock(ctx context.Context) error {
	for {
		err := unix.Flock(int(f.self.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return &os.PathError{Op: "locking", Path: f.root.Name(), Err: err}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for another installation into %s: %w", f.root.Name(), ctx.Err())
		case <-time.After(lockWait):
		}
	}
}

// sweep removes what a crash during put left.
func (f *folder) sweep() error {
	entries, err := f.self.ReadDir(-1)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if strings.HasSuffix(entry.Name(), tempSuffix) && !entry.IsDir() {
			if err := f.root.Remove(entry.Name()); err != nil {
				return err
			}
		}
	}
	return nil
}

func (f *folder) look(name string) (found, error) {
	at, err := f.root.Lstat(name)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return found{}, nil
	case err != nil:
		return found{}, err
	case at.Mode()&os.ModeSymlink != 0:
		return f.follow(name)
	case !at.Mode().IsRegular():
		return found{kind: other}, nil
	}
	content, err := f.root.ReadFile(name)
	return found{kind: file, content: content, executable: at.Mode()&0o111 != 0}, err
}

// follow distinguishes a symlink to nothing from others, which is possible inside of the folder
// only: a symlink that leads out fails with another error than ErrNotExist.
func (f *folder) follow(name string) (found, error) {
	to, err := f.root.Readlink(name)
	if err != nil {
		return found{}, err
	}
	if _, err := f.root.Stat(name); errors.Is(err, os.ErrNotExist) {
		return found{kind: deadLink, link: to}, nil
	}
	return found{kind: link, link: to}, nil
}

// put writes a file beside its place, reads it back, and renames it into place. A running plugin
// keeps the file that had the name before; the next one that is executed is ours. (A file that is
// open for writing never has the name, so there is no ETXTBSY.)
func (f *folder) put(name string, content []byte) error {
	temp := name + tempSuffix
	file, err := f.root.OpenFile(temp, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	_, err = file.Write(content)
	if err = errors.Join(err, file.Chmod(0o755), file.Sync(), file.Close()); err == nil { // whatever the umask
		err = f.verify(temp, content)
	}
	if err == nil {
		err = f.root.Rename(temp, name)
	}
	if err != nil {
		return errors.Join(err, f.root.Remove(temp))
	}
	return f.self.Sync()
}

// verify reads back what was written, from the disk rather than from the page cache where the
// kernel follows the advice.
func (f *folder) verify(name string, content []byte) error {
	file, err := f.root.Open(name)
	if err != nil {
		return err
	}
	defer file.Close()
	_ = unix.Fadvise(int(file.Fd()), 0, 0, unix.FADV_DONTNEED) // not all file systems support it
	sum, want := sha256.New(), sha256.Sum256(content)
	if _, err := io.Copy(sum, file); err != nil {
		return err
	}
	if !bytes.Equal(sum.Sum(nil), want[:]) {
		return fmt.Errorf("reading back %s: it is not what was written: the disk or its file system is at fault", name)
	}
	return nil
}
