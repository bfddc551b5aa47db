package doctor

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/plainroute/plainroute/pkg/cni"
	"github.com/plainroute/plainroute/pkg/plugins"
	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/topology"
)

// cniConfigs looks for CNI configs that a container runtime takes instead of ours.
func cniConfigs(_ context.Context, t *Target) []problem.Problem {
	if _, err := os.ReadDir(t.Store.ConfDir); err != nil {
		return Skip(err.Error(), "give the folder of CNI configs: --cni-conf-dir")
	}
	before := slices.DeleteFunc(t.Store.Before(), func(name string) bool { return slices.Contains(t.ConfigsBefore, name) })
	if len(before) == 0 {
		return t.unreadConfigs()
	}
	disable := mapped(before, func(name string) string {
		file := t.onHost(filepath.Join(t.Store.ConfDir, name))
		return "mv " + file + " " + file + ".off" // a container runtime ignores that name
	})
	return Fail("the container runtime attaches pods by another CNI config than ours", fmt.Sprintf("in %s, before %s: %s", t.Store.ConfDir, topology.Conflist, strings.Join(before, ", ")),
		"if that network is not wanted: `"+strings.Join(disable, " && ")+"`, and recreate the pods that it attached; if it is that of a meta plugin which calls plainroute, name it in the agents' --cni-config-before (the chart's cni.before)")
}

// cniPlugins looks for missing, broken and outdated plugins among those that our config calls.
func cniPlugins(_ context.Context, t *Target) []problem.Problem {
	const remedy = "delete the agent's pod, because the init container install-cni of the next one installs them (the chart's installCNI.enabled), or install the stock CNI plugins"
	if t.BinDir == "" {
		return Skip("the agent does not look at CNI plugins (--cni-bin-dir is empty)", "give their folder: --cni-bin-dir")
	}
	needed := append(cni.RequiredBy(t.State.CNI), cni.Chained(t.State.CNI)...)
	missing, err := plugins.Missing(t.BinDir, needed)
	if err != nil {
		return Skip(err.Error(), "mount the plugins' folder, or give its path: --cni-bin-dir")
	}
	var found []problem.Problem
	if len(missing) > 0 {
		found = append(found, Fail("no pod can be attached: CNI plugins are missing", fmt.Sprintf("not in %s: %s", t.BinDir, strings.Join(missing, ", ")), remedy+"; a plugin that another program has added to the CNI config has to be installed by that program")...)
	}
	for name, why := range (&plugins.Folder{Path: t.BinDir}).Unfit(needed) {
		if !slices.Contains(missing, name) {
			found = append(found, Fail("a CNI plugin can't run", why, remedy)...)
		}
	}
	slices.SortFunc(found, func(a, b problem.Problem) int {
		return cmp.Or(cmp.Compare(a.Message, b.Message), cmp.Compare(a.Evidence, b.Evidence))
	})
	if len(found) == 0 {
		found = t.otherFolder(t.BinDir, "bin_dir", "bin_dirs", "plugin_dirs")
	}
	if len(found) > 0 {
		return found
	}
	return t.comparePlugins()
}

// comparePlugins compares the installed plugins with the image's. A symlink leads to the
// distribution's plugins (k3s, MicroK8s), which are accepted as they are.
func (t *Target) comparePlugins() []problem.Problem {
	results, err := (&plugins.Install{From: t.Offered, To: t.BinDir, Names: cni.RequiredBy(t.State.CNI)}).Review()
	if err != nil {
		return Skip(err.Error(), "")
	}
	var old, odd, broken []string
	for _, r := range results {
		switch {
		case r.Action == plugins.Repaired:
			broken = append(broken, r.Plugin+": "+r.Reason)
		case r.Action == plugins.Upgraded:
			old = append(old, older(r))
		case r.Doubtful:
			odd = append(odd, r.Plugin+": "+r.Reason)
		}
	}
	in := "in " + t.BinDir + ": "
	var found []problem.Problem
	if len(broken) > 0 {
		found = Fail("a CNI plugin can't run", in+strings.Join(broken, "; "), reinstallPlugins)
	}
	if len(old) > 0 {
		found = append(found, Warn("CNI plugins are older than those of the image", in+strings.Join(old, "; "), reinstallPlugins+"; running pods are not touched")...)
	}
	if len(odd) > 0 {
		found = append(found, Warn("CNI plugins may differ from those that pods need", in+strings.Join(odd, "; "), "if pods do not start, or without an address: move the plugin, and "+reinstallPlugins+" (or install-cni --force)")...)
	}
	return found
}

const reinstallPlugins = "delete the agent's pod: the init container install-cni of the next one installs the image's plugins (the chart's installCNI.enabled)"

func older(r plugins.Result) string {
	text := fmt.Sprintf("%s is %s, the image's is %s", r.Plugin, r.Found, r.Offered)
	if r.Reason != "" {
		text += " (" + r.Reason + ")"
	}
	return text
}

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
