package sandbox

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// All that a program inside writes lands on the sandbox's own /run, in memory, and is gone with it.
const (
	tempDir  = "/run/tmp"
	cacheDir = "/run/cache"
	netnsDir = "/run/netns"
)

type mount struct {
	source, target, fstype string
	flags                  uintptr
	why                    string
}

// mountAll gives the sandbox mounts of its own. They are invisible elsewhere, because the first one
// cuts the propagation.
//
// /etc becomes read-only because an agent inside adds its protocol's name to /etc/iproute2 where it may: it must not
// touch the machine that the sandbox runs on.
func mountAll() error {
	locked, err := lockedFlags("/etc")
	if err != nil {
		return err
	}
	const plain = unix.MS_NOSUID | unix.MS_NODEV
	mounts := []mount{
		{"", "/", "", unix.MS_REC | unix.MS_PRIVATE, "making mounts private"},
		{"proc", "/proc", "proc", plain | unix.MS_NOEXEC, "mounting /proc of the new process namespace"},
		{"tmpfs", "/run", "tmpfs", plain, "mounting an empty /run"},
		{"/etc", "/etc", "", unix.MS_BIND | unix.MS_REC, "binding /etc"},
		{"", "/etc", "", unix.MS_BIND | unix.MS_REMOUNT | unix.MS_RDONLY | locked, "making /etc read-only"},
	}
	for _, m := range mounts {
		if err := unix.Mount(m.source, m.target, m.fstype, m.flags, ""); err != nil {
			return fmt.Errorf("%s: %w", m.why, err)
		}
	}
	for _, dir := range []string{tempDir, cacheDir, netnsDir} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return fmt.Errorf("making a folder in the sandbox: %w", err)
		}
	}
	return nil
}

// lockedFlags are the flags that a mount has and that a user namespace's root can't take away (mount_namespaces(7)):
// a remount has to name them again.
func lockedFlags(path string) (uintptr, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(path, &fs); err != nil {
		return 0, fmt.Errorf("reading the mount flags of %s: %w", path, err)
	}
	var flags uintptr
	for status, flag := range map[int64]uintptr{
		unix.ST_NOSUID: unix.MS_NOSUID, unix.ST_NODEV: unix.MS_NODEV, unix.ST_NOEXEC: unix.MS_NOEXEC,
		unix.ST_NOATIME: unix.MS_NOATIME, unix.ST_NODIRATIME: unix.MS_NODIRATIME, unix.ST_RELATIME: unix.MS_RELATIME,
	} {
		if fs.Flags&status != 0 {
			flags |= flag
		}
	}
	return flags, nil
}
