package kubelets

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/util/uuid"
)

// Where a node has the files of the cluster, which no machine has.
const (
	nodeBin  = "/e2e/bin"
	nodePKI  = "/e2e/pki"
	nodeLogs = "/e2e/logs"
	nodePath = nodeBin + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin"
)

// settings are those of the kernel, not of a namespace, that a kubelet writes unless they have the
// right value, and the file by which it detects a reboot. Each is hidden behind a file, because the
// machine must keep its own.
func settings() map[string]string {
	return map[string]string{
		"vm/overcommit_memory": "1", "vm/panic_on_oom": "0", "kernel/panic": "10", "kernel/panic_on_oops": "1",
		"kernel/keys/root_maxkeys": "1000000", "kernel/keys/root_maxbytes": "25000000",
		"kernel/random/boot_id": string(uuid.NewUUID()),
	}
}

// makeRoot gives the node a root of its own and enters it: programs are this machine's, all other files are the node's.
func makeRoot(p plan) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making mounts private: %w", err)
	}
	r := root{filepath.Join(p.Dir, "root")}
	if err := r.mount("tmpfs", "/", "tmpfs", 0, "mode=755"); err != nil {
		return err
	}
	steps := []func() error{
		r.programs(p), r.system, r.devices, func() error { return r.etc(p) }, func() error { return r.disk(p) }, r.settings,
		r.cgroups, r.enter,
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

type root struct{ dir string }

func (r root) path(inside string) string { return filepath.Join(r.dir, inside) }

// mount mounts something on a folder of the root, which it makes.
func (r root) mount(source, inside, fstype string, flags uintptr, data string) error {
	target := r.path(inside)
	if err := os.MkdirAll(target, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(source, target, fstype, flags, data); err != nil {
		return fmt.Errorf("mounting %s on %s: %w", source, inside, err)
	}
	return nil
}

func (r root) bind(source, inside string) error {
	return r.mount(source, inside, "", unix.MS_BIND|unix.MS_REC, "")
}

// programs makes /usr of this machine's and of the packages that it lacks.
func (r root) programs(p plan) func() error {
	return func() error {
		packages := filepath.Join(p.Bin, "e2e", "debian", "usr")
		if err := r.mount("overlay", "/usr", "overlay", unix.MS_RDONLY, "lowerdir="+packages+":/usr"); err != nil {
			return err
		}
		for _, name := range []string{"bin", "sbin", "lib", "lib32", "lib64", "libx32"} {
			to, err := os.Readlink("/" + name)
			if err != nil {
				continue
			}
			if err := os.Symlink(to, r.path(name)); err != nil {
				return err
			}
		}
		return errors.Join(
			r.bind(filepath.Join(p.Bin, "e2e"), nodeBin), r.bind(p.PKI, nodePKI), r.bind(p.Logs, nodeLogs),
		)
	}
}

func (r root) bindFile(source, inside string) error {
	target := r.path(inside)
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return err
	}
	if _, err := os.Lstat(target); errors.Is(err, fs.ErrNotExist) {
		if err := os.WriteFile(target, nil, 0o644); err != nil {
			return err
		}
	}
	if err := unix.Mount(source, target, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("binding %s to %s: %w", source, inside, err)
	}
	return nil
}

func (r root) system() error {
	const plain = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	return errors.Join(
		r.mount("proc", "/proc", "proc", plain, ""),
		r.mount("sysfs", "/sys", "sysfs", plain, ""),
		r.mount("tmpfs", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755"),
		r.mount("tmpfs", "/tmp", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=1777"),
		os.MkdirAll(r.path("/root"), 0o700),
		os.MkdirAll(r.path("/run/lock"), 0o755),
	)
}

func (r root) devices() error {
	err := errors.Join(
		r.mount("tmpfs", "/dev", "tmpfs", unix.MS_NOSUID, "mode=755"),
		r.mount("devpts", "/dev/pts", "devpts", unix.MS_NOSUID|unix.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620"),
		r.mount("tmpfs", "/dev/shm", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=1777"),
		r.mount("mqueue", "/dev/mqueue", "mqueue", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""),
		os.Symlink("pts/ptmx", r.path("/dev/ptmx")),
		os.Symlink("/proc/self/fd", r.path("/dev/fd")),
		os.Symlink("fd/0", r.path("/dev/stdin")), os.Symlink("fd/1", r.path("/dev/stdout")), os.Symlink("fd/2", r.path("/dev/stderr")),
	)
	for _, name := range []string{"null", "zero", "full", "random", "urandom", "tty", "kmsg"} {
		if _, there := os.Stat("/dev/" + name); there == nil {
			err = errors.Join(err, r.bindFile("/dev/"+name, "/dev/"+name))
		}
	}
	return err
}

func (r root) etc(p plan) error {
	id := sha256.Sum256([]byte(p.Name))
	files := map[string]string{
		"passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
		"group":  "root:x:0:\nnogroup:x:65534:\n",
		"hosts":  "127.0.0.1 localhost\n::1 localhost\n", "hostname": p.Name + "\n", "machine-id": hex.EncodeToString(id[:16]) + "\n",
		// No server answers there. That is as good as no name server, which a kubelet and CoreDNS
		// reject.
		"resolv.conf":     "nameserver 192.0.2.53\n",
		"nsswitch.conf":   "passwd: files\ngroup: files\nhosts: files dns\n",
		"containerd.toml": containerdConfig, "kubelet.yaml": kubeletConfig(), "kube-proxy.yaml": proxyConfig(p),
	}
	for name, content := range files {
		path := r.path("/etc/" + name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			return err
		}
	}
	// Programs of this machine go by these.
	for _, name := range []string{"/etc/alternatives", "/etc/ssl"} {
		if _, err := os.Stat(name); err == nil {
			if err := r.bind(name, name); err != nil {
				return err
			}
		}
	}
	return nil
}

// disk mounts the folders that survive a reboot.
func (r root) disk(p plan) error {
	err := errors.Join(
		r.bind(filepath.Join(p.Dir, diskVar), "/var"), r.bind(filepath.Join(p.Dir, diskOpt), "/opt"), r.bind(filepath.Join(p.Dir, diskCNI), "/etc/cni"),
	)
	if err != nil {
		return err
	}
	if err := os.Symlink("/run", r.path("/var/run")); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

func (r root) settings() error {
	for name, value := range settings() {
		file := r.path("/run/settings/" + name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(file, []byte(value+"\n"), 0o644); err != nil {
			return err
		}
		if err := unix.Mount(file, r.path("/proc/sys/"+name), "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("hiding the setting %s: %w", name, err)
		}
	}
	return nil
}

// cgroups mounts each hierarchy; our namespace shows the node's own part of it.
func (r root) cgroups() error {
	const plain = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	if unified() {
		if err := r.mount("cgroup2", cgroupRoot, "cgroup2", plain, ""); err != nil {
			return err
		}
		return r.freeCgroup()
	}
	if err := r.mount("tmpfs", cgroupRoot, "tmpfs", plain, "mode=755"); err != nil {
		return err
	}
	own, err := hierarchies()
	if err != nil {
		return err
	}
	for dir := range own {
		options := filepath.Base(dir)
		if options == "systemd" {
			options = "none,name=systemd"
		}
		if err := r.mount("cgroup", dir, "cgroup", plain, options); err != nil {
			return err
		}
	}
	return nil
}

// freeCgroup moves PID 1 into a leaf, and so all that it starts, and lets the node's cgroup give controllers to those of
// pods once the launcher has left it too.
func (r root) freeCgroup() error {
	dir := r.path(cgroupRoot)
	if err := joinLeaf(dir, firstName); err != nil {
		return err
	}
	return poll(func() error { return enable(dir) })
}

// enter makes it the root, and lets mounts of pods' volumes show in containers (mount_namespaces(7)).
func (r root) enter() error {
	if err := os.Mkdir(r.path("/old"), 0o700); err != nil {
		return err
	}
	if err := unix.PivotRoot(r.dir, r.path("/old")); err != nil {
		return fmt.Errorf("changing the root: %w", err)
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	if err := unix.Unmount("/old", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("leaving the old root: %w", err)
	}
	if err := os.Remove("/old"); err != nil {
		return err
	}
	return unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, "")
}
