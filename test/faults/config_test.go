package faults

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/test/nodelab"
)

// retryLimit bounds the repair of what no notification reports. The agent tries it again at
// intervals that double from 20 ms.
const retryLimit = 3 * time.Second

// pluginLimit bounds repairs that run the stock plugins, a process each.
const pluginLimit = 2 * time.Second

func configFaults() []fault {
	return append(pluginFaults(), []fault{
		{
			name: "the CNI config deleted", answer: "it is written again",
			inject: func(l *lab) { l.must(os.Remove(l.config())) }, times: 5, within: healLimit,
		},
		{
			name: "the CNI config truncated", answer: "it is written again",
			inject: func(l *lab) { l.must(os.Truncate(l.config(), 0)) }, times: 5, within: healLimit,
		},
		{
			name: "the CNI config overwritten", answer: "it is written again",
			inject: overwriteConfig, times: 5, within: healLimit,
		},
		{
			name: "the CNI config replaced by a folder", answer: "it is reported; written when the folder is gone",
			inject: folderInTheWay, times: 2, within: healLimit,
		},
		{
			name: "the run folder emptied, so that the CNI config dangles", answer: "it is written again",
			inject: emptyRunFolder, times: 2, within: healLimit,
		},
		{
			name: "the run folder removed", answer: "it is made again, with the CNI config",
			inject: removeRunFolder, within: retryLimit,
		},
		{
			name:   "pods deleted while the CNI config is missing",
			answer: "they terminate once it is back",
			inject: deletePodMeanwhile, within: pluginLimit,
		},
		{
			name: "another CNI's config appears that sorts before ours", answer: "it is reported and left alone, and ours stays",
			inject: otherConfig, times: 2, within: healLimit,
		},
		{
			name:    "the disk of the CNI folder full, and the config deleted",
			answer:  "it is reported; written as soon as there is room",
			prepare: func(l *lab) { l.mountSmall(l.node.ConfDir) },
			inject:  func(l *lab) { fullDisk(l, l.node.ConfDir, l.config()) },
			within:  retryLimit,
		},
		{
			name:    "the disk of the run folder full, and the config deleted",
			answer:  "it is reported; written as soon as there is room",
			prepare: func(l *lab) { l.mountSmall(l.node.RunDir) },
			inject:  func(l *lab) { fullDisk(l, l.node.RunDir, filepath.Join(l.node.RunDir, conflist)) },
			within:  retryLimit,
		},
	}...)
}

// pluginFaults keep the node from making pods.
func pluginFaults() []fault {
	return []fault{
		{
			name: "a CNI plugin deleted", answer: "it is reported, and the CNI config stays for pods that go; with the plugin all is well again",
			prepare: ownPlugins,
			inject:  func(l *lab) { l.withoutPlugin(os.Remove) },
			times:   2, within: healLimit, repaired: allPlugins,
		},
		{
			name: "a CNI plugin replaced by half of a copy of it", answer: "it is reported, and the CNI config stays; with the whole plugin all is well again",
			prepare: ownPlugins,
			inject:  func(l *lab) { l.withoutPlugin(halfCopy) },
			within:  healLimit, repaired: allPlugins,
		},
	}
}

// config is the path of the node's CNI config.
func (l *lab) config() string { return filepath.Join(l.node.ConfDir, conflist) }

// ownPlugins gives the node's agent a folder of plugins of its own.
func ownPlugins(l *lab) {
	folder := l.t.TempDir()
	l.must(os.CopyFS(folder, os.DirFS(l.pool.Plugins())))
	l.options.Args = append(l.options.Args, "--cni-bin-dir="+folder)
	l.plugins = folder
}

// withoutPlugin spoils the bridge plugin, waits until that is reported, and gives the plugin back.
func (l *lab) withoutPlugin(spoil func(path string) error) {
	path := filepath.Join(l.plugins, "bridge")
	aside := path + ".aside"
	content, err := os.ReadFile(path)
	l.must(err)
	l.must(os.WriteFile(aside, content, 0o755))
	l.must(spoil(path))
	l.await(func() error { return l.checkProblem(problem.PluginMissing, "bridge") })
	time.Sleep(lapse)
	if _, err := os.Stat(l.config()); err != nil {
		l.t.Errorf("the CNI config: %v", err)
	}
	l.must(os.Rename(aside, path))
	l.repairable()
}

// allPlugins returns an error if a plugin is still reported, or anything of ours is not as it was.
func allPlugins(l *lab) error {
	if err := l.checkNoProblem(problem.PluginMissing); err != nil {
		return err
	}
	return l.checkOurs()
}

// halfCopy is the remainder of a copy to a full disk.
func halfCopy(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	return os.Truncate(path, info.Size()/2)
}

// overwriteConfig is an editor or another CNI that keeps the name.
func overwriteConfig(l *lab) {
	l.must(os.Remove(l.config()))
	l.must(os.WriteFile(l.config(), []byte(`{"cniVersion": "1.0.0", "name": "mine", "plugins": []}`), 0o644))
}

func folderInTheWay(l *lab) {
	l.must(l.node.PauseAgent())
	l.must(os.Remove(l.config()))
	l.must(os.Mkdir(l.config(), 0o755))
	l.must(l.node.SignalAgent(syscall.SIGCONT))
	l.await(func() error { return l.checkProblem(problem.CNIFailed, "is a folder") })
	time.Sleep(lapse)
	l.must(os.Remove(l.config()))
	l.repairable()
}

func emptyRunFolder(l *lab) {
	files, err := os.ReadDir(l.node.RunDir)
	l.must(err)
	for _, file := range files {
		l.must(os.RemoveAll(filepath.Join(l.node.RunDir, file.Name())))
	}
}

// removeRunFolder moves it away first: the agent is quick to write the first file again.
func removeRunFolder(l *lab) {
	gone := l.node.RunDir + ".gone"
	l.must(os.Rename(l.node.RunDir, gone))
	l.must(os.RemoveAll(gone))
}

// deletePodMeanwhile does as a kubelet does: it tries to take the pod down until it can.
func deletePodMeanwhile(l *lab) {
	pod, err := l.node.AddPod(l.within(limit), "leaving")
	l.must(err)
	other, aside := filepath.Join(l.node.ConfDir, "99-other.conflist"), filepath.Join(l.node.ConfDir, "99-other.aside")
	l.must(os.Rename(other, aside))
	l.must(l.node.PauseAgent())
	l.must(os.Remove(l.config()))
	if err := pod.Remove(l.within(limit)); !errors.Is(err, nodelab.ErrNoCNIConfig) {
		l.t.Errorf("removing a pod without a CNI config: %v; want %v", err, nodelab.ErrNoCNIConfig)
	}
	l.must(l.node.SignalAgent(syscall.SIGCONT))
	l.repairable()
	l.await(func() error { return pod.Remove(l.within(limit)) })
	l.must(os.Rename(aside, other))
}

func otherConfig(l *lab) {
	path := filepath.Join(l.node.ConfDir, "05-other.conflist")
	l.must(os.WriteFile(path, []byte(`{"cniVersion": "1.0.0", "name": "other", "plugins": [{"type": "ptp"}]}`), 0o600))
	before := state{}
	l.must(before.addFile(path))
	l.await(func() error { return l.checkProblem(problem.CNIConflict, "05-other.conflist") })
	time.Sleep(lapse)
	l.must(l.checkOurs())
	now := state{}
	l.must(now.addFile(path))
	if err := before.compare(now); err != nil {
		l.t.Errorf("another CNI's config: %v", err)
	}
	l.must(os.Remove(path))
	l.repairable()
}

// mountSmall mounts a disk of its own on a folder of the node, small enough to be filled.
func (l *lab) mountSmall(folder string) {
	l.t.Helper()
	l.must(os.MkdirAll(folder, 0o755))
	l.must(unix.Mount("tmpfs", folder, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755,size=256k,nr_inodes=64"))
	l.t.Cleanup(func() {
		// Detached at once, even if a process still has a file open.
		if err := unix.Unmount(folder, unix.MNT_DETACH); err != nil {
			l.t.Error(err)
		}
	})
	if folder == l.node.ConfDir {
		l.must(l.node.plantFiles())
	}
}

// fullDisk deletes a file of the agent's on a disk that is full, until space is freed.
func fullDisk(l *lab, disk, file string) {
	l.must(l.node.PauseAgent())
	l.must(os.Remove(file))
	filler := fill(l, disk)
	l.must(l.node.SignalAgent(syscall.SIGCONT))
	l.await(func() error { return l.checkProblem(problem.CNIFailed, unix.ENOSPC.Error()) })
	time.Sleep(lapse)
	for _, path := range filler {
		l.must(os.Remove(path))
	}
	l.repairable()
}

// fill takes every byte and every inode of a disk, and returns the files that do.
func fill(l *lab, disk string) []string {
	var files []string
	for number := range 1000 {
		path := filepath.Join(disk, fmt.Sprintf("filler-%d", number))
		err := os.WriteFile(path, make([]byte, 64<<10), 0o644)
		if _, gone := os.Lstat(path); gone != nil {
			return files
		}
		files = append(files, path)
		if err != nil && !errors.Is(err, unix.ENOSPC) {
			l.t.Fatal(err)
		}
	}
	l.t.Fatalf("%s is never full", disk)
	return nil
}
