package doctor

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/plainroute/plainroute/pkg/cni"
	"github.com/plainroute/plainroute/pkg/plugins"
	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/topology"
)

// cniConfigs looks for those that a container runtime takes before ours and that nobody wants, and
// whether it reads the folder that ours is in.
func cniConfigs(_ context.Context, p *Patient) []problem.Problem {
	if _, err := os.ReadDir(p.Store.ConfDir); err != nil {
		return Skip(err.Error(), "say where CNI configs are: --cni-conf-dir")
	}
	before := slices.DeleteFunc(p.Store.Before(), func(name string) bool { return slices.Contains(p.ConfigsBefore, name) })
	if len(before) == 0 {
		return p.unreadConfigs()
	}
	return []problem.Problem{Fail("the container runtime attaches pods by another CNI config than ours", fmt.Sprintf("in %s, before %s: %s", p.Store.ConfDir, topology.Conflist, strings.Join(before, ", ")),
		"if that network is not wanted: `"+p.putAway(before)+"`, and make the pods anew that it attached; if it is a meta plugin's that calls plainroute, name it in the agents' --cni-config-before (the chart's cni.before)")}
}

// putAway is the command that hides CNI configs from the container runtime, and can be undone.
func (p *Patient) putAway(configs []string) string {
	var all []string
	for _, name := range configs {
		file := p.onHost(filepath.Join(p.Store.ConfDir, name))
		all = append(all, "mv "+file+" "+file+".off")
	}
	return strings.Join(all, " && ")
}

// cniPlugins looks whether those that our config calls are there and can be run, and
// what they are.
func cniPlugins(_ context.Context, p *Patient) []problem.Problem {
	const cure = "delete the agent's pod, whose init container install-cni puts them there (the chart's installCNI.enabled), or install the stock CNI plugins"
	if p.BinDir == "" {
		return Skip("the agent does not look at CNI plugins (--cni-bin-dir is empty)", "say where they are: --cni-bin-dir")
	}
	needed := append(cni.RequiredBy(p.State.CNI), cni.Chained(p.State.CNI)...)
	missing, err := plugins.Missing(p.BinDir, needed)
	if err != nil {
		return Skip(err.Error(), "mount the plugins' folder, or say where it is: --cni-bin-dir")
	}
	var found []problem.Problem
	if len(missing) > 0 {
		found = append(found, Fail("no pod can be attached: CNI plugins are missing", fmt.Sprintf("not in %s: %s", p.BinDir, strings.Join(missing, ", ")), cure+"; one that another program has added to the CNI config, that program installs"))
	}
	folder := plugins.Folder{Path: p.BinDir}
	for name, why := range folder.Unfit(needed) {
		if !slices.Contains(missing, name) {
			found = append(found, Fail("a CNI plugin can't run", why, cure))
		}
	}
	slices.SortFunc(found, func(a, b problem.Problem) int {
		return cmp.Or(cmp.Compare(a.Message, b.Message), cmp.Compare(a.Evidence, b.Evidence))
	})
	if len(found) == 0 {
		found = p.otherFolder(p.BinDir, "bin_dir", "bin_dirs", "plugin_dirs")
	}
	if len(found) > 0 {
		return found
	}
	return p.reviewPlugins()
}

// reviewPlugins looks whether those that can run are stock ones, and as new as ours.
// What a symlink leads to is the distribution's (k3s, MicroK8s), and is believed.
func (p *Patient) reviewPlugins() []problem.Problem {
	review := plugins.Install{From: p.Offered, To: p.BinDir, Names: cni.RequiredBy(p.State.CNI)}
	results, err := review.Review()
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
	var found []problem.Problem
	in := "in " + p.BinDir + ": "
	if len(broken) > 0 {
		found = append(found, Fail("a CNI plugin can't run", in+strings.Join(broken, "; "), anewPlugins))
	}
	if len(old) > 0 {
		found = append(found, Warn("CNI plugins are older than those of the image", in+strings.Join(old, "; "), anewPlugins+"; running pods are not touched"))
	}
	if len(odd) > 0 {
		found = append(found, Warn("CNI plugins may be others than pods need", in+strings.Join(odd, "; "),
			"if pods do not start, or without an address: move the plugin away, and "+anewPlugins+" (or install-cni --force)"))
	}
	return found
}

const anewPlugins = "make the agent's pod anew: its init container install-cni puts the image's plugins there (the chart's installCNI.enabled)"

func older(r plugins.Result) string {
	text := fmt.Sprintf("%s is %s, the image's is %s", r.Plugin, r.Found, r.Offered)
	if r.Reason != "" {
		text += " (" + r.Reason + ")"
	}
	return text
}
