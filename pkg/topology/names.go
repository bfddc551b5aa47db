// Package topology turns Nodes, the facts of this host and the operator's
// options into the State that the kernel and the CNI folder should be in.
//
// It is pure: no I/O, no clock, no logging. The same input always gives the
// same State, so that a pass can be repeated at any time.
package topology

// The marks by which we know what is ours. Nothing that lacks its mark is ever
// changed, and no other record of what was installed is kept on the host. What an
// agent remembers beside it, for as long as it runs, only keeps things as they are:
// who has which subnet, what removals wait for, which gateways are former ones.
const (
	// Protocol is rtm_protocol of our routes (rtnetlink(7)): a number that no
	// protocol in iproute2's rt_protos uses.
	Protocol = 112

	// MetricPeer is the metric of routes to peers' pod subnets. The kernel's key
	// of a route is (table, prefix, tos, metric) and leaves the protocol out, so
	// a metric of our own keeps a replace of ours from hitting a foreign route.
	MetricPeer = 2048

	// MetricOwn is the metric of the unreachable route to our own pod subnet. It
	// is above that of the bridge's connected route (0, IPv6 256), which wins
	// while it exists.
	MetricOwn = 4096

	// Table names our nftables table, of family inet.
	Table = "plainroute"

	// Bridge is the default name of the bridge that the stock plugin makes.
	Bridge = "plainroute0"

	// Conflist names our CNI config in the CNI folder. Container runtimes take the
	// first name in lexical order.
	Conflist = "10-plainroute.conflist"

	// Gate names the symlink that the runtime loads where Conflist is a regular file. It
	// sorts directly before Conflist.
	Gate = "10-plainroute-gate.conflist"

	// ConditionReason is the reason of a Node's condition NetworkUnavailable that an
	// agent keeps.
	ConditionReason = "PlainrouteReady"

	// EventSource is what Events of an agent name as their source.
	EventSource = "plainroute"

	// Network is the name of the CNI network that our config describes; host-local
	// keeps its leases in a folder of that name.
	Network = "plainroute"

	// FirewallPlugin is the stock plugin that lets pods' packets through iptables' chain FORWARD.
	FirewallPlugin = "firewall"

	// IPAMDir is the folder in the run folder where those folders are. They go with
	// a reboot, as the pods do.
	IPAMDir = "ipam"
)
