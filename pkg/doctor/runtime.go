package doctor

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/topology"
)

// runtimes are those of Kubernetes, with their sockets and config files (for filepath.Glob).
var runtimes = []struct {
	name, socket string
	files        []string
}{
	{"containerd", "/run/containerd/containerd.sock", []string{"/etc/containerd/config.toml", "/etc/containerd/conf.d/*.toml"}},
	{"CRI-O", "/run/crio/crio.sock", []string{"/etc/crio/crio.conf", "/etc/crio/crio.conf.d/*"}},
}

// folderSetting matches a TOML setting whose value is a string or a list of strings.
var folderSetting = regexp.MustCompile(`(?m)^[ \t]*(\w+)[ \t]*=[ \t]*("[^"\n]*"|'[^'\n]*'|\[[^\]]*\])`)

var quoted = regexp.MustCompile(`"([^"]*)"|'([^']*)'`)

// otherFolder reports a container runtime that uses another folder than ours, by the host's files.
func (t *Target) otherFolder(ours string, settings ...string) []problem.Problem {
	if !t.seesHost() {
		return nil
	}
	ours = t.onHost(ours)
	for _, r := range runtimes {
		if !t.exists(r.socket) {
			continue
		}
		for _, file := range t.glob(r.files...) {
			if others := foldersOf(file, settings); len(others) > 0 && !slices.Contains(others, ours) {
				return Fail("the container runtime uses another folder than plainroute", fmt.Sprintf("%s has %s, and plainroute uses %s", t.onHost(file), strings.Join(others, ", "), ours),
					"give plainroute that folder (the chart's cni.confDir and cni.binDir, --cni-conf-dir and --cni-bin-dir); or give "+r.name+" ours, and restart it")
			}
		}
	}
	return nil
}

// foldersOf returns the folders that a TOML file has in one of the settings.
func foldersOf(file string, settings []string) []string {
	content, _ := os.ReadFile(file)
	var folders []string
	for _, m := range folderSetting.FindAllStringSubmatch(string(content), -1) {
		if !slices.Contains(settings, m[1]) {
			continue
		}
		for _, q := range quoted.FindAllStringSubmatch(m[2], -1) {
			if folder := q[1] + q[2]; folder != "" {
				folders = append(folders, filepath.Clean(folder))
			}
		}
	}
	return folders
}

// unreadAfter is the time after which the Node's status reflects a new CNI config.
const unreadAfter = 30 * time.Second

// unreadConfigs reports a container runtime that does not load our config.
func (t *Target) unreadConfigs() []problem.Problem {
	if found := t.otherFolder(t.Store.ConfDir, "conf_dir", "network_dir"); len(found) > 0 {
		return found
	}
	own, path := t.OwnNode(), filepath.Join(t.Store.ConfDir, topology.Conflist)
	info, err := os.Lstat(path)
	if own == nil || t.State.CNI == nil || err != nil || time.Since(info.ModTime()) < unreadAfter {
		return nil
	}
	for _, c := range own.Status.Conditions {
		if c.Type == corev1.NodeReady && c.Status == corev1.ConditionFalse && strings.Contains(c.Message, "reason:NetworkPluginNotReady") {
			return Fail("the container runtime does not load our CNI config, so no pod can be attached", fmt.Sprintf("%s is in place since %s, and the Node's condition Ready is: %s", t.onHost(path), info.ModTime().UTC().Format(time.RFC3339), c.Message),
				problem.CNIUnread.Remediation()+" `crictl info` shows what the runtime reads and why it does not load a config.")
		}
	}
	return nil
}
