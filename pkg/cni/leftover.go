package cni

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containernetworking/cni/libcni"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/topology"
)

func (s Store) lock() string { return filepath.Join(s.RunDir, "lock") }

// others returns the paths of our files besides the config.
func (s Store) others() []string { return []string{s.lock(), s.nodes(), s.nodes() + tempSuffix} }

// Held reports whether TakeLock failed because an agent has the lock.
func Held(err error) bool { return errors.Is(err, unix.EWOULDBLOCK) }

// Held reports whether an agent has the lock. It creates no file.
func (s Store) Held() bool {
	file, err := os.OpenFile(s.lock(), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer file.Close()
	return Held(unix.Flock(int(file.Fd()), unix.LOCK_SH|unix.LOCK_NB))
}

// LeaseDir is where host-local keeps the leases of our pods.
func (s Store) LeaseDir() string { return filepath.Join(s.RunDir, topology.IPAMDir) }

// Configs returns the existing files of our config, and those that a crash left. A folder of our
// name is not ours.
func (s Store) Configs() []string {
	var paths []string
	for _, path := range s.paths() {
		paths = append(paths, path, path+tempSuffix)
	}
	return existing(paths...)
}

// Leftovers returns our other files in the run folder.
func (s Store) Leftovers() []string {
	files := existing(s.others()...)
	if at, err := os.Lstat(s.LeaseDir()); err == nil && at.IsDir() {
		files = append(files, s.LeaseDir())
	}
	return files
}

func existing(paths ...string) []string {
	var there []string
	for _, path := range paths {
		if at, err := os.Lstat(path); err == nil && !at.IsDir() {
			there = append(there, path)
		}
	}
	return there
}

// Clear removes our config, then our other files in the run folder, then the folder if it is empty
// (in a pod it is a mount, and stays). The leases must stay while a pod holds one, because
// host-local would give its address to the next pod.
func (s Store) Clear(leases bool) error {
	var errs []error
	if leases {
		errs = append(errs, os.RemoveAll(s.LeaseDir())) // does not follow symlinks
	}
	for _, path := range append(s.Configs(), existing(s.others()...)...) {
		errs = append(errs, unlink(path))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("removing our files: %w", err)
	}
	_ = unix.Rmdir(s.RunDir)
	return nil
}

// CacheDir is where libcni, and so containerd and CRI-O, keep a file for each attachment from
// the end of its ADD to the end of its DEL (libcni.CacheDir, a variable). It outlives a reboot.
const CacheDir = "/var/lib/cni"

// Attachments returns what is attached to our network according to the runtime's record: live pods,
// and dead sandboxes that are not detached yet. Without a cache there are none.
func Attachments(cacheDir string) ([]Holder, error) {
	all, err := libcni.NewCNIConfigWithCacheDir(nil, cacheDir, nil).GetCachedAttachments("")
	if err != nil {
		return nil, fmt.Errorf("reading which sandboxes the runtime has attached: %w", err)
	}
	var holders []Holder
	for _, a := range all {
		if a.Network == topology.Network {
			holders = append(holders, Holder{a.ContainerID, a.IfName})
		}
	}
	return holders, nil
}
