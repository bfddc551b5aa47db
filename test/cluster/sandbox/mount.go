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

// mountAll gives the sandbox mounts of its own. They show nowhere else, since the first one cuts the propagation.
//
// /etc becomes read-only because an agent inside adds its protocol's name to /etc/iproute2 where it may: it must not
// touch the machine that the sandbox runs on.
func mountAll() error {
	mounts := []mount{
		{"", "/", "", unix.MS_REC | unix.MS_PRIVATE, "making mounts private"},
		{"proc", "/proc", "proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, "mounting /proc of the new process namespace"},
		{"tmpfs", "/run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mounting an empty /run"},
		{"/etc", "/etc", "", unix.MS_BIND | unix.MS_REC, "binding /etc"},
		{"", "/etc", "", unix.MS_BIND | unix.MS_REMOUNT | unix.MS_RDONLY, "making /etc read-only"},
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
