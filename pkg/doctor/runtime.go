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

// runtimes are the container runtimes of Kubernetes: where they listen, and where their
// settings are, as patterns of filepath.Glob.
var runtimes = []struct {
	name, socket string
	files        []string
}{
	{"containerd", "/run/containerd/containerd.sock", []string{"/etc/containerd/config.toml", "/etc/containerd/conf.d/*.toml"}},
	{"CRI-O", "/run/crio/crio.sock", []string{"/etc/crio/crio.conf", "/etc/crio/crio.conf.d/*"}},
}

// folderSetting is a setting of TOML whose value is a string or a list of strings.
var folderSetting = regexp.MustCompile(`(?m)^[ \t]*(\w+)[ \t]*=[ \t]*("[^"\n]*"|'[^'\n]*'|\[[^\]]*\])`)

var quoted = regexp.MustCompile(`"([^"]*)"|'([^']*)'`)

// otherFolder finds out whether the container runtime is told another folder than ours by one
// of the settings. It is a finding only where the host's files can be seen.
func (p *Patient) otherFolder(ours string, settings ...string) []problem.Problem {
	if !p.seesHost() {
		return nil
	}
	ours = p.onHost(ours)
	for _, r := range runtimes {
		if !p.exists(r.socket) {
			continue
		}
		for _, pattern := range r.files {
			files, err := filepath.Glob(p.Path(pattern))
			if err != nil {
				continue // no pattern of ours is malformed
			}
			for _, file := range files {
				if others := foldersOf(file, settings); len(others) > 0 && !slices.Contains(others, ours) {
					return []problem.Problem{Fail("the container runtime uses another folder than plainroute", fmt.Sprintf("%s says %s, and plainroute uses %s", p.onHost(file), strings.Join(others, ", "), ours),
						"give plainroute that folder (the chart's cni.confDir and cni.binDir, --cni-conf-dir and --cni-bin-dir); or give "+r.name+" ours, and restart it")}
				}
			}
		}
	}
	return nil
}

// foldersOf returns the folders that a file of TOML gives by one of the settings.
func foldersOf(file string, settings []string) []string {
	content, err := os.ReadFile(file)
	if err != nil {
		return nil
	}
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

// unreadAfter is longer than a new CNI config takes to show in the Node.
const unreadAfter = 30 * time.Second

// unreadConfigs finds out whether the container runtime loads our config.
func (p *Patient) unreadConfigs() []problem.Problem {
	if found := p.otherFolder(p.Store.ConfDir, "conf_dir", "network_dir"); len(found) > 0 {
		return found
	}
	own, path := p.OwnNode(), filepath.Join(p.Store.ConfDir, topology.Conflist)
	info, err := os.Lstat(path)
	if own == nil || p.State.CNI == nil || err != nil || time.Since(info.ModTime()) < unreadAfter {
		return nil
	}
	for _, c := range own.Status.Conditions {
		if c.Type == corev1.NodeReady && c.Status == corev1.ConditionFalse && strings.Contains(c.Message, "reason:NetworkPluginNotReady") {
			return []problem.Problem{Fail("the container runtime does not load our CNI config, so no pod can be made", fmt.Sprintf("%s is in place since %s, and the Node says: %s", p.onHost(path), info.ModTime().UTC().Format(time.RFC3339), c.Message),
				problem.CNIUnread.Remediation()+" `crictl info` shows what the runtime reads and why it does not load a config.")}
		}
	}
	return nil
}
