package cluster

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const cgroupRoot = "/sys/fs/cgroup"

// ErrNotHere says that this machine lacks what nodes need; who runs the tests is told so, and it is no failure.
var ErrNotHere = errors.New("a cluster of kubelets can't run here")

// hierarchies are the mounted cgroup hierarchies of version 1 by their folders, with our own cgroup in each.
func hierarchies() (map[string]string, error) {
	file, err := os.Open("/proc/self/cgroup")
	if err != nil {
		return nil, err
	}
	defer file.Close()
	all := map[string]string{}
	for lines := bufio.NewScanner(file); lines.Scan(); {
		// cgroups(7): hierarchy-ID:controller-list:cgroup-path
		parts := strings.SplitN(lines.Text(), ":", 3)
		if len(parts) < 3 || parts[1] == "" {
			continue
		}
		dir := filepath.Join(cgroupRoot, strings.TrimPrefix(parts[1], "name="))
		if _, err := os.Stat(filepath.Join(dir, "cgroup.procs")); err == nil {
			all[dir] = parts[2]
		}
	}
	for _, needed := range []string{"cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "pids", "blkio"} {
		if _, there := all[filepath.Join(cgroupRoot, needed)]; !there {
			return nil, fmt.Errorf("%w: there is no cgroup v1 hierarchy %s/%s (clusters on cgroup v2 alone are not built yet)", ErrNotHere, cgroupRoot, needed)
		}
	}
	return all, nil
}

// makeCgroups makes a cgroup of a name below our own in each hierarchy, and returns their folders.
func makeCgroups(name string) ([]string, error) {
	own, err := hierarchies()
	if err != nil {
		return nil, err
	}
	var dirs []string
	for root, path := range own {
		dir := filepath.Join(root, path)
		for _, part := range strings.Split(name, "/") {
			if dir, err = makeCgroup(dir, part); err != nil {
				return nil, fmt.Errorf("%w: %w", ErrNotHere, err)
			}
		}
		dirs = append(dirs, dir)
	}
	return dirs, nil
}

// makeCgroup makes one below parent. A new one of cpuset is empty, and admits nothing before it is filled
// (cpusets(7)).
func makeCgroup(parent, name string) (string, error) {
	dir := filepath.Join(parent, name)
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		content, err := os.ReadFile(filepath.Join(parent, file))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, file), content, 0o644)
		}
		if err != nil {
			return "", err
		}
	}
	return dir, nil
}

// join moves this process into cgroups.
func join(dirs []string) error {
	for _, dir := range dirs {
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte("0"), 0o644); err != nil {
			return fmt.Errorf("joining cgroup %s: %w", dir, err)
		}
	}
	return nil
}

// removeCgroups removes cgroups with all below them, the deepest first. Processes that were killed take a moment to
// leave theirs.
func removeCgroups(dirs []string) error {
	deadline := time.Now().Add(limit)
	for {
		var errs []error
		for _, dir := range dirs {
			errs = append(errs, removeCgroup(dir))
		}
		err := errors.Join(errs...)
		if err == nil || time.Now().After(deadline) {
			return err
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func removeCgroup(dir string) error {
	var all []string
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() {
			all = append(all, path)
		}
		return err
	})
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	slices.Reverse(all)
	for _, path := range all {
		if e := unix.Rmdir(path); e != nil && !errors.Is(e, unix.ENOENT) {
			err = errors.Join(err, fmt.Errorf("removing cgroup %s: %w", path, e))
		}
	}
	return err
}
