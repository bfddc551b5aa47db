package nodelab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// DoConfined runs fn on a thread that, with all that it starts, has what config/daemonset gives the agent's container: the
// one capability CAP_NET_ADMIN, no way to get more, and a root that is read-only but for the CNI folder, the run folder
// and a mount of /proc/sys/net.
func (n *Node) DoConfined(fn func() error) error {
	return n.DoForever(n.confineMounts, confineRights, fn)
}

// procSys returns where a confined agent finds the settings.
func (n *Node) procSys() string { return filepath.Join(n.dir, "proc-sys") }

// confineMounts gives the thread mounts of its own, all of them read-only but for three. They are mounted where a folder
// of the thread's own is, as in a container: a mount goes with the folder that it is on, not with the one that it shows.
func (n *Node) confineMounts() error {
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("making a mount namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making mounts private: %w", err)
	}
	writable := []string{n.RunDir, n.ConfDir, filepath.Join(n.procSys(), "net")}
	shown := make([]int, 0, len(writable))
	defer func() {
		for _, fd := range shown {
			unix.Close(fd)
		}
	}()
	for _, from := range []string{n.RunDir, n.ConfDir, "/proc/sys/net"} {
		// The container runtime makes the missing folders of a pod's hostPath volumes.
		if err := os.MkdirAll(from, 0o755); err != nil {
			return fmt.Errorf("making a folder for the agent of %s: %w", n.Name, err)
		}
		fd, err := unix.OpenTree(unix.AT_FDCWD, from, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
		if err != nil {
			return fmt.Errorf("binding %s: %w", from, err)
		}
		shown = append(shown, fd)
	}
	if err := unix.Mount("tmpfs", n.dir, "tmpfs", 0, "mode=755"); err != nil {
		return fmt.Errorf("hiding %s: %w", n.dir, err)
	}
	for i, to := range writable {
		err := errors.Join(os.MkdirAll(to, 0o755), unix.MoveMount(shown[i], "", unix.AT_FDCWD, to, unix.MOVE_MOUNT_F_EMPTY_PATH))
		if err != nil {
			return fmt.Errorf("mounting %s: %w", to, err)
		}
	}
	if err := unix.MountSetattr(unix.AT_FDCWD, "/", unix.AT_RECURSIVE, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}); err != nil {
		return fmt.Errorf("making all mounts read-only: %w", err)
	}
	for _, to := range writable {
		if err := unix.MountSetattr(unix.AT_FDCWD, to, 0, &unix.MountAttr{Attr_clr: unix.MOUNT_ATTR_RDONLY}); err != nil {
			return fmt.Errorf("making %s writable: %w", to, err)
		}
	}
	return nil
}

// confineRights takes all capabilities but CAP_NET_ADMIN from the thread, also from those that a program of root's would
// get back when it starts (capabilities(7)).
func confineRights() error {
	for c := uintptr(0); ; c++ {
		if c == unix.CAP_NET_ADMIN {
			continue
		}
		err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0)
		if errors.Is(err, unix.EINVAL) {
			break // the kernel has no more of them
		}
		if err != nil {
			return fmt.Errorf("dropping capability %d: %w", c, err)
		}
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("dropping the ambient capabilities: %w", err)
	}
	const rights = 1 << unix.CAP_NET_ADMIN
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	data := [2]unix.CapUserData{{Effective: rights, Permitted: rights}}
	if err := unix.Capset(&header, &data[0]); err != nil {
		return fmt.Errorf("dropping capabilities: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("giving up new privileges: %w", err)
	}
	return nil
}
