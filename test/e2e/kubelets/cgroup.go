package kubelets

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/test/testutil"
)

const cgroupRoot = "/sys/fs/cgroup"

// ErrNotHere is returned when this machine lacks what nodes need. Tests skip on it.
var ErrNotHere = errors.New("a cluster of kubelets can't run here")

// needed are the controllers without which a kubelet or runc does not work.
var needed = []string{"cpu", "cpuset", "memory", "pids"}

// neededV1 are those that are not controllers, or not in need of being enabled, in version 2.
var neededV1 = append([]string{"cpuacct", "devices", "freezer", "blkio"}, needed...)

// unified reports whether the machine has cgroups of version 2 only.
func unified() bool {
	var fs unix.Statfs_t
	return unix.Statfs(cgroupRoot, &fs) == nil && fs.Type == unix.CGROUP2_SUPER_MAGIC
}

// parents are the folders of the cgroups below which clusters have theirs: in version 1 our own one
// in each hierarchy. In version 2 a cgroup with processes can't have children with controllers,
// unless it is the root (cgroups(7)), so it is the root.
func parents() ([]string, error) {
	if unified() {
		return []string{cgroupRoot}, offered()
	}
	own, err := hierarchies()
	if err != nil {
		return nil, err
	}
	var dirs []string
	for root, path := range own {
		dirs = append(dirs, filepath.Join(root, path))
	}
	return dirs, nil
}

// offered returns an error unless the root of version 2 has all controllers to give.
func offered() error {
	have, err := words(filepath.Join(cgroupRoot, "cgroup.controllers"))
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNotHere, err)
	}
	for _, name := range needed {
		if !slices.Contains(have, name) {
			return fmt.Errorf("%w: %s has no controller %s", ErrNotHere, cgroupRoot, name)
		}
	}
	return nil
}

func words(path string) ([]string, error) {
	content, err := os.ReadFile(path)
	return strings.Fields(string(content)), err
}

// hierarchies are the mounted cgroup hierarchies of version 1 by their folders, with our own cgroup in each.
func hierarchies() (map[string]string, error) {
	file, err := os.Open("/proc/self/cgroup")
	if err != nil {
		return nil, fmt.Errorf("finding our cgroups: %w", err)
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
	for _, name := range neededV1 {
		if _, there := all[filepath.Join(cgroupRoot, name)]; !there {
			return nil, fmt.Errorf("%w: no cgroup hierarchy %s is mounted", ErrNotHere, filepath.Join(cgroupRoot, name))
		}
	}
	return all, nil
}

// makeCgroups makes a cgroup of a name below each of the parents, and returns their folders.
func makeCgroups(name string) ([]string, error) {
	above, err := parents()
	if err != nil {
		return nil, err
	}
	var dirs []string
	for _, dir := range above {
		for part := range strings.SplitSeq(name, "/") {
			if dir, err = makeCgroup(dir, part); err != nil {
				return nil, fmt.Errorf("%w: making a cgroup: %w", ErrNotHere, err)
			}
		}
		dirs = append(dirs, dir)
	}
	return dirs, nil
}

// makeCgroup makes one below parent. A new one of cpuset is empty in version 1, and admits nothing before it is filled
// (cpuset(7)).
func makeCgroup(parent, name string) (string, error) {
	dir := filepath.Join(parent, name)
	if unified() {
		if err := enable(parent); err != nil {
			return "", err
		}
	}
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	if unified() {
		return dir, nil
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

const subtreeControl = "cgroup.subtree_control"

// enable gives the children of a cgroup of version 2 all controllers that it has.
func enable(dir string) error {
	have, err := words(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return err
	}
	return control(dir, "+", have)
}

// control enables ("+") or disables ("-") controllers for the children of a cgroup of version 2.
func control(dir, sign string, names []string) error {
	var errs []error
	for _, name := range names {
		err := os.WriteFile(filepath.Join(dir, subtreeControl), []byte(sign+name), 0o644)
		if err != nil && (sign == "-" || slices.Contains(needed, name)) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
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

// joinLeaf moves this process into a cgroup below dir, which thereby is free for controllers, once others have left it
// too.
func joinLeaf(dir, name string) error {
	leaf := filepath.Join(dir, name)
	if err := os.Mkdir(leaf, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("making a cgroup: %w", err)
	}
	return join([]string{leaf})
}

// removeCgroups removes cgroups with all below them, the deepest first. Processes that were killed take a moment to
// leave theirs.
func removeCgroups(dirs []string) error {
	return poll(func() error {
		var errs []error
		for _, dir := range dirs {
			errs = append(errs, removeCgroup(dir))
		}
		return errors.Join(errs...)
	})
}

// poll calls try until it returns nil, and returns the last error after limit.
func poll(try func() error) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	return testutil.Poll(ctx, interval, try)
}

func removeCgroup(dir string) error {
	all, err := tree(dir)
	slices.Reverse(all)
	for _, path := range all {
		if e := unix.Rmdir(path); e != nil && !errors.Is(e, unix.ENOENT) {
			err = errors.Join(err, fmt.Errorf("removing cgroup %s: %w", path, e))
		}
	}
	return err
}

// tree is a cgroup with all below it, parents first. Groups that vanish meanwhile are left out.
func tree(dir string) ([]string, error) {
	var all []string
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil && entry.IsDir() {
			all = append(all, path)
		}
		return err
	})
	return all, err
}
