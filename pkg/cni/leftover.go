package cni

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/topology"
)

func (s Store) lock() string { return filepath.Join(s.RunDir, "lock") }

// Held tells whether an error of TakeLock says that an agent has the lock.
func Held(err error) bool { return errors.Is(err, unix.EWOULDBLOCK) }

// Held tells whether an agent has the lock, and makes no file to find out.
func (s Store) Held() bool {
	file, err := os.OpenFile(s.lock(), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer file.Close()
	return Held(unix.Flock(int(file.Fd()), unix.LOCK_SH|unix.LOCK_NB))
}

// LeaseDir is where host-local keeps the addresses that it gave to pods of ours.
func (s Store) LeaseDir() string { return filepath.Join(s.RunDir, topology.IPAMDir) }

// Configs returns which files of our config are there, with what a crash left of
// them. A folder of our name is somebody's work.
func (s Store) Configs() []string {
	var paths []string
	for _, path := range s.paths() {
		paths = append(paths, path, path+tempSuffix)
	}
	return existing(paths...)
}

// Leftovers returns what else of ours is in the run folder.
func (s Store) Leftovers() []string {
	files := existing(s.lock())
	if at, err := os.Lstat(s.LeaseDir()); err == nil && at.IsDir() {
		files = append(files, s.LeaseDir())
	}
	return files
}

// existing leaves out folders and what is not there.
func existing(paths ...string) []string {
	var there []string
	for _, path := range paths {
		if at, err := os.Lstat(path); err == nil && !at.IsDir() {
			there = append(there, path)
		}
	}
	return there
}

// Clear takes away our config, then what else of ours is in the run folder, and the
// folder if nothing is left in it: in a pod it is a mount, and stays. Leases go
// only where no pod holds one, for host-local would give its address to the next.
func (s Store) Clear(leases bool) error {
	var errs []error
	if leases {
		errs = append(errs, os.RemoveAll(s.LeaseDir())) // follows no link
	}
	for _, path := range append(s.Configs(), existing(s.lock())...) {
		errs = append(errs, unlink(path))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("removing our files: %w", err)
	}
	_ = unix.Rmdir(s.RunDir)
	return nil
}
