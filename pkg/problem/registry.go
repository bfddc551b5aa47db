package problem

import (
	"slices"
)

// Scope is where a Problem of an agent is solved.
type Scope int

// The scopes.
const (
	OfOthers Scope = iota // not on the node that reports it; such a Problem never blocks its readiness
	OfNode                // at the Node that the Problem names: the node's own, or a peer
	OfHost                // always on the node that reports it
)

// source is the command or loop that raises a Reason.
type source int

const (
	agent source = iota
	drift
	fleet
	connectivity
)

// entry is what is known of a Reason beyond the single Problem.
type entry struct {
	by    source
	scope Scope
	// severity is that of a Problem that does not block readiness; empty: Warning.
	severity Severity
	// ready names the check of /readyz that fails when a Problem of this Reason blocks readiness.
	ready string
	// remediation is at most 300 bytes long, so that it fits into an Event's note.
	remediation string
}

const (
	driftRemediation = "Shown is what should be. The agent repairs it within moments. If it stays, another program undoes the repair (ip monitor, nft monitor), " +
		"or the agent's log has the reason."
	seeLog = "See the agent's log (kubectl logs), and run plainroute doctor in its pod."
)

// registry has every Reason. A Reason of an agent that concerns its own node becomes an Event of that Node.
var registry = map[Reason]entry{
	NodeMissing: {
		scope: OfNode, ready: "node", remediation: "Start the kubelet, or restart it if the Node was deleted: it registers only when it starts. " +
			"Or give the agent the name under which it has registered (--node-name).",
	},
	PodCIDRMissing: {
		scope: OfNode, ready: "podcidr", remediation: "Run kube-controller-manager with --allocate-node-cidrs and --cluster-cidr, and look whether " +
			"that range has subnets left; or set spec.podCIDR of the Node.",
	},
	PodCIDRMalformed: {
		scope: OfNode, ready: "podcidr", remediation: "Delete the Node and restart its kubelet, which registers it anew, so that it is given a " +
			"well-formed podCIDR: a podCIDR can't be changed.",
	},
	PodCIDRRefused: {
		scope: OfNode, ready: "podcidr", remediation: "If a device that another pod network left (cni0) is named, delete it (ip link delete). If " +
			"the cluster gives out that range, add it to --cluster-cidr. Else compare it with " +
			"--service-cidr, --node-cidr-mask-size-* and the machines' networks; if it is wrong, delete " +
			"the Node and restart its kubelet.",
	},
	PodCIDRDisputed: {
		scope: OfOthers, remediation: "Two Nodes have one podCIDR, or podCIDRs that overlap: delete the Node that has it wrongly, " +
			"and restart its kubelet, which registers it anew.",
	},
	AddressMissing: {
		scope: OfNode, ready: "addresses", remediation: "Give the kubelet the machine's own address (--node-ip), one of each family that has a pod " +
			"subnet, and see that a link which is up bears it (ip address).",
	},
	AddressMalformed: {
		scope: OfNode, ready: "addresses", remediation: "Correct the Node's InternalIP: the kubelet's --node-ip, or what the cloud's controller " +
			"writes.",
	},
	AddressRefused: {
		scope: OfNode, ready: "addresses", remediation: "If the Node's InternalIP is wrong, correct it (the kubelet's --node-ip). If it is right, " +
			"take it off the device of this machine that is named (on kube-ipvs0: a Service's externalIPs " +
			"or load balancer address), or have the agents' --node-cidr and --cluster-cidr leave it to " +
			"Nodes.",
	},
	AddressShared: {
		scope: OfOthers, remediation: "Two Nodes have one InternalIP: give one of the machines another address, or delete the Node " +
			"that is left over.",
	},
	OffLink: {
		scope: OfOthers, remediation: "Bring up this machine's link if it is down (ip link). Else put the Nodes on one network " +
			"segment, or have the gateway between them route the pod subnets (plainroute agent --mode " +
			"router).",
	},
	RouteConflict: {
		scope: OfHost, ready: "routes", remediation: "Find out who made the route (its protocol says: ip route show table all), and remove it " +
			"there if nothing needs it; plainroute's own takes over at once.",
	},
	RouteKept: {
		scope: OfHost, remediation: "Take the Node's address off the device of this machine that is named (on kube-ipvs0: a " +
			"Service's externalIPs or load balancer address), or give back the route to the Nodes' " +
			"network (ip route, ip link). If the Node's machine has moved, correct its InternalIP.",
	},
	RangeOverlap: {
		scope: OfHost, remediation: "Take what is named out of the pods' range: an address (ip address), a device that another " +
			"pod network left (ip link delete), a nameserver, a gateway. Or give pods a range that is " +
			"nobody else's. If no machine needs an address in there, nothing.",
	},
	RouteFailed: {
		scope: OfOthers, remediation: "Look up what the kernel says about the route; the agent tries again by itself.",
	},
	SettingMissing: {
		scope: OfHost, ready: "settings", remediation: "Load the kernel's module that brings the setting (modprobe br_netfilter, and a file in " +
			"/etc/modules-load.d for the next boot), or turn IPv6 on.",
	},
	SettingFailed: {
		scope: OfHost, ready: "settings", remediation: "Let the agent write /proc/sys/net (in a pod: the mount of the host's), or set the value " +
			"yourself and keep it by a file in /etc/sysctl.d.",
	},
	HostUnseen: {
		scope: OfHost, remediation: "Let the agent read and watch the file or folder that is named; more inotify instances are to " +
			"be had by fs.inotify.max_user_instances.",
	},
	KernelFailed: {
		scope: OfHost, ready: "kernel", remediation: "Give the agent CAP_NET_ADMIN in the host's network namespace if that is what the kernel " +
			"refuses; else see the agent's log and the kernel's (dmesg).",
	},
	TableFailed: {
		scope: OfHost, ready: "table", remediation: "See who holds the nftables table `inet plainroute` (nft list tables; a table may be bound to " +
			"a process), and that the kernel has nf_tables and its NAT.",
	},
	BridgeFailed: {
		scope: OfHost, ready: "bridge", remediation: "See what the pods' bridge bears (ip address show), what is in it (bridge link show), and who " +
			"else manages them, such as NetworkManager or systemd-networkd; have them leave the bridge " +
			"and its ports alone.",
	},
	CNIFailed: {
		scope: OfHost, ready: "cni-config", remediation: "Make the CNI folder and the run folder writable to the agent, with room left on their file " +
			"systems.",
	},
	CNIConflict: {
		scope: OfHost, ready: "cni-first", remediation: "Remove the other network's CNI config from the node if its network is not wanted any more, " +
			"and start its pods anew. If that config is a meta plugin's that calls plainroute, name it in " +
			"the agents' --cni-config-before (the chart's cni.before).",
	},
	CNIPluginRefused: {
		scope: OfHost, remediation: "Correct the drop-in file that is named, or remove it (the chart's cni.plugins, else the " +
			"folder of --cni-plugins-dir). A plugin whose program is missing is added once it is " +
			"installed. Pods start without it meanwhile.",
	},
	CNIUnread: {
		scope: OfHost, ready: "cni-read", remediation: "Have the agent write where the container runtime reads (the chart's cni.confDir, " +
			"--cni-conf-dir), which is conf_dir in containerd's config.toml and network_dir in crio.conf. " +
			"If that is the same folder, restart the runtime.",
	},
	PluginMissing: {
		scope: OfHost, ready: "cni-plugins", remediation: "Delete the agent's pod: its init container install-cni puts the plugins there (the chart's " +
			"installCNI.enabled). If the container runtime has another folder of plugins (bin_dir, " +
			"plugin_dirs), name it: the chart's cni.binDir, --cni-bin-dir. What another program added, it " +
			"installs.",
	},
	SubnetFull: {
		scope: OfNode, remediation: "Delete pods that are not needed on the node, or give it fewer (the kubelet's maxPods). If " +
			"fewer pods run than addresses are leased: plainroute doctor --check leases. Larger pod " +
			"subnets take Nodes made anew (--node-cidr-mask-size of the controller manager).",
	},
	APIUnavailable: {
		scope: OfHost, ready: "api-list", remediation: "See that the API server is up and this node reaches it (its Service's address takes " +
			"kube-proxy), and that the agent's credentials may list and watch nodes. Routes stay as they " +
			"are meanwhile.",
	},
	PruneHeld: {
		scope: OfOthers, remediation: "Nothing, as a rule: what is not wanted any more goes once the list of Nodes is confirmed. If " +
			"it stays so, see that the API server and its etcd are well.",
	},
	SubnetChanged: {
		scope: OfNode, ready: "former-podcidr", remediation: "Drain the node: its pods still have addresses of its former podCIDR. The CNI config follows " +
			"once they are gone.",
	},
	NodeUpdateFailed: {
		scope: OfNode, remediation: "Let the agent patch its own Node as the chart's values nodeCondition and startupTaint do, or " +
			"leave --node-condition and --startup-taint out.",
	},
	Contested: {
		scope: OfHost, ready: "uncontested", remediation: "Find the program that undoes it (ip monitor, nft monitor, auditctl) and have it leave alone " +
			"what is plainroute's; often it is another pod network, NetworkManager, systemd-networkd or a " +
			"firewall's script.",
	},
	PodNetworkReady: {severity: Info},

	Missing:  {by: drift, severity: Error, remediation: driftRemediation},
	Altered:  {by: drift, severity: Error, remediation: driftRemediation},
	Unwanted: {by: drift, severity: Error, remediation: driftRemediation},

	NotManaged: {by: fleet, severity: Info},
	NoAgent: {
		by: fleet, severity: Error, remediation: "See why the DaemonSet makes no pod there (kubectl describe daemonset): its nodeSelector or affinity leaves the " +
			"node out, or pods are refused. Routes stay as they were meanwhile.",
	},
	NotRunning: {
		by: fleet, severity: Error, remediation: "See the pod (kubectl describe pod) and its log: the image must have been brought to the node, and the flags must be " +
			"right. Routes stay as they were meanwhile.",
	},
	Forbidden: {by: fleet, severity: Error},
	NoAnswer: {
		by: fleet, severity: Error, remediation: "See whether the node's kubelet is up and the API server reaches it (port 10250). If so, the agent hangs: delete its " +
			"pod, which cuts no traffic. Routes stay as they were meanwhile.",
	},
	Unreadable: {by: fleet, severity: Error, remediation: "Use the plainroute of the agents' version."},
	NodeNotReady: {
		by: fleet, remediation: "Right after an install it passes within seconds. If it mentions CNI or the network and stays, the container runtime reads " +
			"its configs from another folder than the agent writes them to (the chart's cni.confDir; k3s and MicroK8s have their own); else see the " +
			"kubelet's log.",
	},
	NoRoute:      {by: fleet, remediation: seeLog},
	NotReady:     {by: fleet, severity: Error, remediation: seeLog},
	MoreProblems: {by: fleet},
	Asymmetry:    {by: fleet, remediation: "Solve the problems of the Node without the route, above; if its agent does not answer, that first."},
	Disagreement: {
		by: fleet, remediation: "An agent that differs from most has an old view of the Nodes: see whether it reaches the API server (plainroute status there). " +
			"If all do, two Nodes claim the subnet: delete the wrong one, and restart its kubelet, which registers it anew.",
	},
	Oversize: {
		by: fleet, remediation: "Give the links of all Nodes one MTU (ip link set DEV mtu SIZE, and where the link is configured), or all agents the --mtu that " +
			"fits the smallest; pods made from then on have it.",
	},
	Versions: {
		by: fleet, severity: Info, remediation: "Nothing while an update is rolled out. If none is: kubectl rollout status daemonset, and an image of the same tag on " +
			"each node.",
	},

	ProbeFailed:      {by: connectivity, severity: Error},
	SourceTranslated: {by: connectivity, severity: Error},
	NodeAbsent:       {by: connectivity, severity: Error},
}

func (r Reason) entry() entry { return registry[r] }

// Reasons returns the Reasons of agents, sorted.
func Reasons() []Reason {
	var all []Reason
	for r, e := range registry {
		if e.by == agent && r != PodNetworkReady {
			all = append(all, r)
		}
	}
	slices.Sort(all)
	return all
}

// Scope returns where Problems of this Reason are solved.
func (r Reason) Scope() Scope { return r.entry().scope }

// Remediation returns what to do about it, in a sentence or two; empty where the Problem's message has it.
func (r Reason) Remediation() string { return r.entry().remediation }

// Ready returns the name of the check of /readyz that such a Problem fails, empty: it blocks no readiness.
func (r Reason) Ready() string { return r.entry().ready }
