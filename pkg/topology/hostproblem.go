package topology

import (
	"slices"
	"strings"

	"github.com/plainroute/plainroute/pkg/problem"
)

// hostProblems reports what is wrong with this host: a renamed bridge, and a foreign device with
// the bridge's name, of which nothing is changed. The node stays ready where its pods are served:
// with ranges of this host inside pods' ranges, or around them, with things that can't be read or
// watched, and with full subnets, because a rollout of the agents must not wait until pods are
// deleted.
func (b *builder) hostProblems() {
	if b.renamed != "" {
		b.ownProblem(problem.BridgeFailed, "the pods' bridge %s was renamed to %s, so the next pod would get another bridge, and cut off those on this one; give it its name back: ip link set dev %s name %s (before Linux 6.2 it has to be down for that; the agent sets it up again)",
			b.opts.Bridge, b.renamed, b.renamed, b.opts.Bridge)
	}
	if kind := b.otherKind(); kind != "" {
		b.ownProblem(problem.BridgeFailed, "the device %s is not a bridge (its kind is %s), so no pod can be attached; rename or delete it, or give the agent another name (--bridge)", b.opts.Bridge, kind)
	}
	for _, t := range b.validator.wider {
		b.warn(problem.RangeOverlap, "%s belongs to a network around --cluster-cidr; there, routes to pods take precedence, so none of its machines can have an address in --cluster-cidr", t.what)
	}
	for _, t := range b.validator.leftover {
		b.warn(problem.RangeOverlap, "%s, because a pod that is given that address is not reached", t.what)
	}
	for _, what := range b.host.Unseen {
		b.warn(problem.HostUnseen, "%s; until that is repaired, changes of it are found late or not at all", what)
	}
	for _, p := range b.subnets {
		if room := PodCapacity(p); b.leased(p) >= room {
			b.report(problemOf(b.opts.NodeName, p, problem.SubnetFull, "all %d addresses that %s has for pods are leased, so no pod can be made here until one is deleted", room, p))
		}
	}
	if b.host.TableUnread != "" {
		b.report(b.opts.TableProblem(b.host.TableUnread))
	}
}

// pluginProblems reports what is wrong with CNI configs and plugins. Without a plugin our config is
// not written; an existing one stays, because pods are detached with it too. Beside a config that
// the runtime takes instead of it, it is written, because during a migration a node has both.
func (b *builder) pluginProblems() {
	if b.opts.Router {
		return
	}
	for _, name := range b.host.ConfigsBefore {
		if !slices.Contains(b.opts.ConfigsBefore, name) {
			b.ownProblem(problem.CNIConflict, "the container runtime takes %s before our %s, so new pods do not get addresses of this node's subnet; remove that file if its network is not wanted", name, Conflist)
		}
	}
	for _, why := range b.host.PluginProblems {
		b.warn(problem.CNIPluginRefused, "%s", why)
	}
	var unfit []string
	for name, why := range b.host.UnfitPlugins {
		if name != FirewallPlugin || b.opts.Firewall {
			unfit = append(unfit, why)
		}
	}
	if len(unfit) > 0 {
		slices.Sort(unfit)
		b.ownProblem(problem.PluginMissing, "no pod can be attached: %s", strings.Join(slices.Compact(unfit), "; "))
	}
}

// NeedsTable reports whether this node is not ready without its nftables table. Without masquerading
// and tunnels the table only guards the host's loopback addresses (dropLoopback in pkg/dataplane), and
// pods are connected without it.
func (o Options) NeedsTable() bool { return o.Masquerade || o.Encapsulates() }

// TableProblem returns the Problem of an nftables table that can't be read or written.
func (o Options) TableProblem(detail string) problem.Problem {
	if !o.NeedsTable() {
		detail += "; pods are connected, and only what keeps them off the host's 127.0.0.0/8 is missing"
	}
	return problem.Problem{Reason: problem.TableFailed, Message: detail}.Blocking(o.NeedsTable())
}
