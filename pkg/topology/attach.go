package topology

import (
	"net/netip"
	"path/filepath"
	"slices"

	"github.com/plainroute/plainroute/pkg/problem"
)

// cni computes our CNI config. It makes the Node Ready, so it changes only while this node has no
// problem, and is never removed: without it, deleted pods stay Terminating.
func (b *builder) cni() {
	blocks := func(p problem.Problem) bool { return p.BlocksReady && p.Reason != problem.SubnetChanged }
	if b.opts.Router || slices.ContainsFunc(b.problems, blocks) {
		b.desired.CNI = b.actual.CNI
		return
	}
	conf := &CNI{
		Bridge: b.opts.Bridge, MTU: b.mtu(), Subnets: b.configSubnets(), IPAMDir: filepath.Join(b.opts.RunDir, IPAMDir),
		Firewall: b.opts.Firewall, Spec11: b.acceptCNI11(), Plugins: b.chained(), Layout: b.opts.layout(),
	}
	least := minMTU4
	if slices.ContainsFunc(conf.Subnets, is6) {
		least = minMTU6
	}
	if conf.MTU != 0 && conf.MTU < least {
		source, remediation := "as the links to peers have", "raise the MTU of these links"
		if b.opts.MTU != 0 {
			source, remediation = "as set by --mtu", "give the agent a larger one"
		}
		b.ownProblem(problem.BridgeFailed, "pods would get an MTU of %d, %s, and their addresses take %d at least; %s", conf.MTU, source, least, remediation)
		conf = b.actual.CNI
	}
	b.desired.CNI = conf
}

// chained returns the further plugins of our config. The firewall plugin is called once.
func (b *builder) chained() []Plugin {
	if !b.opts.Firewall {
		return b.host.Plugins
	}
	return slices.DeleteFunc(slices.Clone(b.host.Plugins), func(p Plugin) bool { return p.Type == FirewallPlugin })
}

// acceptCNI11 reports whether all plugins of our config accept CNI 1.1.0. If a runtime picked it
// and one of them did not, no pod could start.
func (b *builder) acceptCNI11() bool {
	accepts := func(name string) bool { return slices.Contains(b.host.CNI11, name) }
	return accepts("bridge") && accepts("host-local") && accepts("portmap") &&
		(!b.opts.Firewall || accepts(FirewallPlugin)) &&
		!slices.ContainsFunc(b.chained(), func(p Plugin) bool { return !accepts(p.Type) })
}

// configSubnets returns the subnets of the config: our own, or in a family in which pods use a
// former one, that.
func (b *builder) configSubnets() []netip.Prefix {
	subnets := slices.DeleteFunc(slices.Clone(b.subnets), func(p netip.Prefix) bool {
		return slices.ContainsFunc(b.former, func(f netip.Prefix) bool { return f.Addr().Is4() == p.Addr().Is4() })
	})
	subnets = append(subnets, b.former...)
	slices.SortFunc(subnets, ComparePrefix)
	return subnets
}

// otherConfigs reports other CNI configs that the runtime takes instead of ours, unless the
// operator wants them. Ours is written all the same, because during a migration a node has both.
func (b *builder) otherConfigs() {
	for _, name := range b.host.ConfigsBefore {
		if !b.opts.Router && !slices.Contains(b.opts.ConfigsBefore, name) {
			b.ownProblem(problem.CNIConflict, "the container runtime takes %s before our %s, so new pods do not get addresses of this node's subnet; remove that file if its network is not wanted", name, Conflist)
		}
	}
}

// hostProblems reports problems of this host that do not end the service of its pods: drop-in
// plugins that are left out of the chain, what can't be read or watched, and an unreadable table.
func (b *builder) hostProblems() {
	if b.host.TableUnread != "" {
		b.report(b.opts.TableProblem(b.host.TableUnread))
	}
	for _, why := range b.host.PluginProblems {
		if !b.opts.Router {
			b.warn(problem.CNIPluginRefused, "%s", why)
		}
	}
	for _, what := range b.host.Unseen {
		b.warn(problem.HostUnseen, "%s; until that is repaired, changes of it are found late or not at all", what)
	}
}

// TableProblem returns the Problem of an nftables table that can't be read or written. Without
// masquerading the table only guards the host's loopback addresses (dropLoopback in pkg/dataplane),
// and pods are connected without it.
func (o Options) TableProblem(detail string) problem.Problem {
	if !o.Masquerade {
		detail += "; pods are connected, and only what keeps them off the host's 127.0.0.0/8 is missing"
	}
	return problem.Problem{Reason: problem.TableFailed, Message: detail}.Blocking(o.Masquerade)
}

// formerSubnets finds our former subnets that still have pods. A new config would disconnect them
// with the next pod: the bridge plugin removes the old gateway in IPv4, and keeps it in IPv6, where
// it hides the subnet's new owner. So the old config stays, with what it needs, until these pods
// are gone. If the config was removed, the bridge's addresses show the subnet.
func (b *builder) formerSubnets() {
	if len(b.subnets) == 0 || b.host.Ports == 0 {
		return
	}
	var candidates []netip.Prefix
	if b.actual.CNI != nil {
		candidates = append(candidates, b.actual.CNI.Subnets...)
	}
	for _, a := range b.actual.Addresses {
		if b.gateway(a.Prefix) {
			candidates = append(candidates, a.Prefix.Masked())
		}
	}
	for _, p := range candidates {
		leased := b.leased(p)
		if leased == 0 || slices.Contains(b.subnets, p) || slices.Contains(b.former, p) {
			continue
		}
		b.former = append(b.former, p)
		if !slices.Contains(b.own.PodCIDRs, p) { // otherwise it is refused and reported, and not another Node's
			b.ownProblem(problem.SubnetChanged, "pods still live on %s, which is no longer this node's subnet, and no other node reaches them (addresses leased: %d); drain the node, and the CNI config follows", p, leased)
		}
	}
}

func (b *builder) leased(p netip.Prefix) (n int) {
	for _, addr := range b.host.Leases {
		if p.Contains(addr) {
			n++
		}
	}
	return n
}
