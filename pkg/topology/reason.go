package topology

import (
	"maps"
	"slices"
)

// Subject says whose fault a Reason is.
type Subject int

const (
	// OfOthers is nothing that could be mended on this node.
	OfOthers Subject = iota
	// OfNode is a fault of the Node that the Problem names: ours, or a peer's.
	OfNode
	// OfHost is always a fault of this machine, whichever Node suffers from it.
	OfHost
)

// reasons has every Reason, whose fault it is, and what to do about it where that is
// known. Where the Subject is OfOthers no Problem of it keeps a node from being ready.
var reasons = map[Reason]struct {
	subject Subject
	advice  string
}{
	NodeMissing: {
		OfNode,
		"Start the kubelet, or restart it if the Node was deleted: it registers only when it starts. " +
			"Or give the agent the name under which it has registered (--node-name).",
	},
	PodCIDRMissing: {
		OfNode,
		"Run kube-controller-manager with --allocate-node-cidrs and --cluster-cidr, and look whether " +
			"that range has subnets left; or set spec.podCIDR of the Node.",
	},
	PodCIDRMalformed: {
		OfNode,
		"Delete the Node and restart its kubelet, which registers it anew, so that it is given a " +
			"well-formed podCIDR: a podCIDR can't be changed.",
	},
	PodCIDRRefused: {
		OfNode,
		"If a device that another pod network left (cni0) is named, delete it (ip link delete). If " +
			"the cluster gives out that range, add it to --cluster-cidr. Else compare it with " +
			"--service-cidr, --node-cidr-mask-size-* and the machines' networks; if it is wrong, delete " +
			"the Node and restart its kubelet.",
	},
	PodCIDRDisputed: {
		OfOthers,
		"Two Nodes have one podCIDR, or podCIDRs that overlap: delete the Node that has it wrongly, " +
			"and restart its kubelet, which registers it anew.",
	},
	AddressMissing: {
		OfNode,
		"Give the kubelet the machine's own address (--node-ip), one of each family that has a pod " +
			"subnet, and see that a link which is up bears it (ip address).",
	},
	AddressMalformed: {
		OfNode,
		"Correct the Node's InternalIP: the kubelet's --node-ip, or what the cloud's controller " +
			"writes.",
	},
	AddressRefused: {
		OfNode,
		"If the Node's InternalIP is wrong, correct it (the kubelet's --node-ip). If it is right, " +
			"take it off the device of this machine that is named (on kube-ipvs0: a Service's externalIPs " +
			"or load balancer address), or have the agents' --node-cidr and --cluster-cidr leave it to " +
			"Nodes.",
	},
	AddressShared: {
		OfOthers,
		"Two Nodes have one InternalIP: give one of the machines another address, or delete the Node " +
			"that is left over.",
	},
	OffLink: {
		OfOthers,
		"Bring up this machine's link if it is down (ip link). Else put the Nodes on one network " +
			"segment, or have the gateway between them route the pod subnets (plainroute agent --mode " +
			"router).",
	},
	RouteConflict: {
		OfHost,
		"Find out who made the route (its protocol says: ip route show table all), and remove it " +
			"there if nothing needs it; plainroute's own takes over at once.",
	},
	RouteKept: {
		OfHost,
		"Take the Node's address off the device of this machine that is named (on kube-ipvs0: a " +
			"Service's externalIPs or load balancer address), or give back the route to the Nodes' " +
			"network (ip route, ip link). If the Node's machine has moved, correct its InternalIP.",
	},
	RangeOverlap: {
		OfHost,
		"Take what is named out of the pods' range: an address (ip address), a device that another " +
			"pod network left (ip link delete), a nameserver, a gateway. Or give pods a range that is " +
			"nobody else's. If no machine needs an address in there, nothing.",
	},
	RouteFailed: {
		OfOthers,
		"Look up what the kernel says about the route; the agent tries again by itself.",
	},
	SettingMissing: {
		OfHost,
		"Load the kernel's module that brings the setting (modprobe br_netfilter, and a file in " +
			"/etc/modules-load.d for the next boot), or turn IPv6 on.",
	},
	SettingFailed: {
		OfHost,
		"Let the agent write /proc/sys/net (in a pod: the mount of the host's), or set the value " +
			"yourself and keep it by a file in /etc/sysctl.d.",
	},
	HostUnseen: {
		OfHost,
		"Let the agent read and watch the file or folder that is named; more inotify instances are to " +
			"be had by fs.inotify.max_user_instances.",
	},
	KernelFailed: {
		OfHost,
		"Give the agent CAP_NET_ADMIN in the host's network namespace if that is what the kernel " +
			"refuses; else see the agent's log and the kernel's (dmesg).",
	},
	TableFailed: {
		OfHost,
		"See who holds the nftables table `inet plainroute` (nft list tables; a table may be bound to " +
			"a process), and that the kernel has nf_tables and its NAT.",
	},
	BridgeFailed: {
		OfHost,
		"See what the pods' bridge bears (ip address show), what is in it (bridge link show), and who " +
			"else manages them, such as NetworkManager or systemd-networkd; have them leave the bridge " +
			"and its ports alone.",
	},
	CNIFailed: {
		OfHost,
		"Make the CNI folder and the run folder writable to the agent, with room left on their file " +
			"systems.",
	},
	CNIConflict: {
		OfHost,
		"Remove the other network's CNI config from the node if its network is not wanted any more, " +
			"and start its pods anew. If that config is a meta plugin's that calls plainroute, name it in " +
			"the agents' --cni-config-before (the chart's cni.before).",
	},
	CNIPluginRefused: {
		OfHost,
		"Correct the drop-in file that is named, or remove it (the chart's cni.plugins, else the " +
			"folder of --cni-plugins-dir). A plugin whose program is missing is added once it is " +
			"installed. Pods start without it meanwhile.",
	},
	CNIUnread: {
		OfHost,
		"Have the agent write where the container runtime reads (the chart's cni.confDir, " +
			"--cni-conf-dir), which is conf_dir in containerd's config.toml and network_dir in crio.conf. " +
			"If that is the same folder, restart the runtime.",
	},
	PluginMissing: {
		OfHost,
		"Delete the agent's pod: its init container install-cni puts the plugins there (the chart's " +
			"installCNI.enabled). If the container runtime has another folder of plugins (bin_dir, " +
			"plugin_dirs), name it: the chart's cni.binDir, --cni-bin-dir. What another program added, it " +
			"installs.",
	},
	SubnetFull: {
		OfNode,
		"Delete pods that are not needed on the node, or give it fewer (the kubelet's maxPods). If " +
			"fewer pods run than addresses are leased: plainroute doctor --check leases. Larger pod " +
			"subnets take Nodes made anew (--node-cidr-mask-size of the controller manager).",
	},
	APIUnavailable: {
		OfHost,
		"See that the API server is up and this node reaches it (its Service's address takes " +
			"kube-proxy), and that the agent's credentials may list and watch nodes. Routes stay as they " +
			"are meanwhile.",
	},
	PruneHeld: {
		OfOthers,
		"Nothing, as a rule: what is not wanted any more goes once the list of Nodes is confirmed. If " +
			"it stays so, see that the API server and its etcd are well.",
	},
	SubnetChanged: {
		OfNode,
		"Drain the node: its pods still have addresses of its former podCIDR. The CNI config follows " +
			"once they are gone.",
	},
	NodeUpdateFailed: {
		OfNode,
		"Let the agent patch its own Node as the chart's values nodeCondition and startupTaint do, or " +
			"leave --node-condition and --startup-taint out.",
	},
	Contested: {
		OfHost,
		"Find the program that undoes it (ip monitor, nft monitor, auditctl) and have it leave alone " +
			"what is plainroute's; often it is another pod network, NetworkManager, systemd-networkd or a " +
			"firewall's script.",
	},
}

// Reasons returns all there are, sorted.
func Reasons() []Reason { return slices.Sorted(maps.Keys(reasons)) }

// Subject says whose fault it is.
func (r Reason) Subject() Subject { return reasons[r].subject }

// Advice says what to do about it, in a sentence or two.
func (r Reason) Advice() string { return reasons[r].advice }

// Concerns tells whether a Problem is a fault of this node, whose Node has the name:
// something that is to be mended here, not at a peer.
func (p Problem) Concerns(node string) bool {
	switch p.Reason.Subject() {
	case OfHost:
		return true
	case OfNode:
		return p.Own || p.Node == node
	}
	return false
}
