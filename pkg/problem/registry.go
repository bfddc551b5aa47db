package problem

import "slices"

// Scope is where a Problem of an agent is solved.
type Scope int

// The scopes.
const (
	OfOthers Scope = iota // not on the node that reports it; such a Problem never blocks its readiness
	OfNode                // at the Node that the Problem names: the node's own, or a peer
	OfHost                // always on the node that reports it
)

// source is the command or loop that reports a Reason.
type source int

const (
	agent source = iota
	drift
	fleet
	connectivity
)

// Blocks is whether Problems of a Reason block the readiness of the node that reports them.
type Blocks string

// The values of Blocks.
const (
	never  Blocks = ""
	may    Blocks = "may"    // depends on the case: Problem.Blocking
	always Blocks = "always" // such a Problem is always one of the node that reports it
)

// entry has the properties that all Problems of a Reason share.
type entry struct {
	by    source
	scope Scope
	// severity is that of a Problem that does not block readiness; empty: Warning.
	severity Severity
	blocks   Blocks
	// ready names the check of /readyz that fails when a Problem of this Reason blocks readiness.
	ready string
	// event reports that the node that has such a Problem records it as an Event on its Node.
	event bool
	// remediation is at most 300 bytes long, so that it fits into an Event's note.
	remediation string
}

const (
	driftRemediation = "The message has the desired object. The agent repairs it within moments. If it stays, another program reverts the repair (ip monitor, nft monitor), " +
		"or the agent's log has the reason."
	seeLog = "See the agent's log (kubectl logs), and run plainroute doctor in its pod."
)

// registry has every Reason.
var registry = map[Reason]entry{
	NodeMissing: {
		scope: OfNode, blocks: always, ready: "node", event: true,
		remediation: "Start the kubelet, or restart it if the Node was deleted: it registers only when it starts. Or pass the agent " +
			"the name of the Node (--node-name).",
	},
	PodCIDRMissing: {
		scope: OfNode, blocks: may, ready: "podcidr", event: true,
		remediation: "Run kube-controller-manager with --allocate-node-cidrs and --cluster-cidr, and check that the range has subnets " +
			"left; or set spec.podCIDR of the Node.",
	},
	PodCIDRMalformed: {
		scope: OfNode, blocks: may, ready: "podcidr", event: true,
		remediation: "Delete the Node and restart its kubelet, which registers it again, so that it gets a well-formed podCIDR: a " +
			"podCIDR can't be changed.",
	},
	PodCIDRRefused: {
		scope: OfNode, blocks: may, ready: "podcidr", event: true,
		remediation: "If a device that another pod network left (cni0) is named, delete it (ip link delete). If the cluster gives out " +
			"that range, add it to --cluster-cidr. Else compare it with --service-cidr, --node-cidr-mask-size-* and the " +
			"machines' networks; if it is wrong, delete the Node and restart its kubelet.",
	},
	PodCIDRDisputed: {
		scope: OfOthers,
		remediation: "Two Nodes have one podCIDR, or podCIDRs that overlap: delete the wrong Node, and restart its kubelet, which " +
			"registers it again.",
	},
	AddressMissing: {
		scope: OfNode, blocks: may, ready: "addresses", event: true,
		remediation: "Give the kubelet the machine's own address (--node-ip), one of each family that has a pod subnet, and assign it " +
			"to a link that is up (ip address).",
	},
	AddressMalformed: {
		scope: OfNode, blocks: may, ready: "addresses", event: true,
		remediation: "Correct the Node's InternalIP: the kubelet's --node-ip, or what the cloud's controller writes.",
	},
	AddressRefused: {
		scope: OfNode, blocks: may, ready: "addresses", event: true,
		remediation: "If the Node's InternalIP is wrong, correct it (the kubelet's --node-ip). If it is right, take it off the device " +
			"of this machine that is named (on kube-ipvs0: a Service's externalIPs or load balancer address), or have the " +
			"agents' --node-cidr and --cluster-cidr leave it to Nodes.",
	},
	AddressShared: {
		scope:       OfOthers,
		remediation: "Two Nodes have one InternalIP: give one of the machines another address, or delete the Node that is left over.",
	},
	OffLink: {
		scope: OfOthers,
		remediation: "Bring up this machine's link if it is down (ip link). Else put the Nodes on one network segment, reach them by " +
			"VXLAN (--encapsulation=cross-subnet), or have the gateway between them route the pod subnets (plainroute agent " +
			"--mode router, and --off-link=gateway on the nodes).",
	},
	TunnelFailed: {
		scope: OfHost, blocks: may, ready: "tunnels", event: true,
		remediation: "Remove the device, or stop the program, that the message names, or choose another --vxlan-port or --vxlan-id on " +
			"all nodes; raise the uplink's MTU if that is named. The agent tries again by itself.",
	},
	TunnelConflict: {
		scope: OfHost, event: true,
		remediation: "Remove the other network's VXLAN device if that network is no longer used (ip link delete), or choose another " +
			"--vxlan-port on all nodes.",
	},
	RouteTableUnused: {
		scope: OfHost, blocks: may, ready: "routes", event: true,
		remediation: "Add policy rules for the pods' ranges that lead to the table of --table, before the main table: ip rule add to " +
			"RANGE lookup TABLE, and with -6 for IPv6. If the InternalIP is in a VRF, --table is that VRF's table.",
	},
	MACShared: {scope: OfOthers, remediation: "Two podCIDRs have one MAC address, which is derived from them: delete one of the Nodes, and restart its kubelet, so that it gets another podCIDR."},
	RouteConflict: {
		scope: OfHost, blocks: may, ready: "routes", event: true,
		remediation: "Find the program that added the route (by its protocol: ip route show table all), and remove it there if nothing " +
			"needs it; plainroute's own route takes over at once.",
	},
	RouteKept: {
		scope: OfHost, event: true,
		remediation: "Take the Node's address off the device of this machine that is named (on kube-ipvs0: a Service's externalIPs or " +
			"load balancer address), or give back the route to the Nodes' network (ip route, ip link). If the Node's machine " +
			"has moved, correct its InternalIP.",
	},
	RangeOverlap: {
		scope: OfHost, event: true,
		remediation: "Take what is named out of the pods' range: an address (ip address), a device that another pod network left (ip " +
			"link delete), a nameserver, a gateway. Or give pods a range that is not used otherwise. If no machine needs an " +
			"address in that range, nothing needs to be done.",
	},
	RouteFailed: {scope: OfOthers, remediation: "The message has the kernel's error. The agent tries again by itself."},
	SettingMissing: {
		scope: OfHost, blocks: may, ready: "settings", event: true,
		remediation: "Load the kernel's module that brings the setting (modprobe br_netfilter, and a file in /etc/modules-load.d for " +
			"the next boot), or enable IPv6.",
	},
	SettingFailed: {
		scope: OfHost, blocks: may, ready: "settings", event: true,
		remediation: "Let the agent write /proc/sys/net (in a pod: the mount of the host's), or set the value yourself and keep it by " +
			"a file in /etc/sysctl.d.",
	},
	HostUnseen: {
		scope: OfHost, event: true,
		remediation: "Let the agent read and watch the file or folder that is named; for more inotify instances raise " +
			"fs.inotify.max_user_instances.",
	},
	KernelFailed: {
		scope: OfHost, blocks: may, ready: "kernel", event: true,
		remediation: "Give the agent CAP_NET_ADMIN in the host's network namespace if that is what the kernel refuses; else see the " +
			"agent's log and the kernel's (dmesg).",
	},
	TableFailed: {
		scope: OfHost, blocks: may, ready: "table", event: true,
		remediation: "Find out which process owns the nftables table `inet plainroute` (nft list tables), and check that the kernel " +
			"has nf_tables and its NAT.",
	},
	BridgeFailed: {
		scope: OfHost, blocks: may, ready: "bridge", event: true,
		remediation: "Check the pods' bridge, its addresses (ip address show), its ports (bridge link show), and what else manages " +
			"them, such as NetworkManager or systemd-networkd; configure them to leave the bridge and its ports alone.",
	},
	CNIFailed: {
		scope: OfHost, blocks: always, ready: "cni-config", event: true,
		remediation: "Make the CNI folder and the run folder writable for the agent, and check that their file systems have space " +
			"left.",
	},
	CNIConflict: {
		scope: OfHost, blocks: always, ready: "cni-first", event: true,
		remediation: "Remove the other network's CNI config from the node if its network is no longer used, and restart its pods. If " +
			"that config is a meta plugin's that calls plainroute, name it in the agents' --cni-config-before (the chart's " +
			"cni.before).",
	},
	CNIPluginRefused: {
		scope: OfHost, event: true,
		remediation: "Correct the drop-in file that is named, or remove it (the chart's cni.plugins, else the folder of " +
			"--cni-plugins-dir). A plugin whose program is missing is added once it is installed. Pods start without it " +
			"meanwhile.",
	},
	CNIUnread: {
		scope: OfHost, blocks: always, ready: "cni-read", event: true,
		remediation: "Have the agent write where the container runtime reads (the chart's cni.confDir, --cni-conf-dir), which is " +
			"conf_dir in containerd's config.toml and network_dir in crio.conf. If that is the same folder, restart the " +
			"runtime.",
	},
	PluginMissing: {
		scope: OfHost, blocks: always, ready: "cni-plugins", event: true,
		remediation: "Delete the agent's pod: its init container install-cni puts the plugins there (the chart's installCNI.enabled). " +
			"If the container runtime has another folder of plugins (bin_dir, plugin_dirs), name it: the chart's cni.binDir, " +
			"--cni-bin-dir. Plugins of another program are installed by that program.",
	},
	SubnetFull: {
		scope: OfNode, event: true,
		remediation: "Delete pods that are not needed on the node, or give it fewer (the kubelet's maxPods). If fewer pods run than " +
			"addresses are leased: plainroute doctor --check leases. For larger pod subnets recreate Nodes " +
			"(--node-cidr-mask-size of the controller manager).",
	},
	APIUnavailable: {
		scope: OfHost, blocks: may, ready: "api-list", event: true,
		remediation: "Check that the API server is up and this node reaches it (its Service's address needs kube-proxy), and that the " +
			"agent's credentials may list and watch nodes. Routes stay unchanged meanwhile.",
	},
	PruneHeld: {
		scope: OfOthers,
		remediation: "Usually nothing: the agent removes these routes once the list of Nodes is confirmed. If this persists, check the " +
			"API server and its etcd.",
	},
	SubnetChanged: {
		scope: OfNode, blocks: always, ready: "former-podcidr", event: true,
		remediation: "Drain the node: its pods still have addresses of its former podCIDR. The CNI config follows once they are gone.",
	},
	NodeUpdateFailed: {
		scope: OfNode, event: true,
		remediation: "Let the agent patch its own Node as the chart's values nodeCondition and startupTaint do, or leave " +
			"--node-condition and --startup-taint out.",
	},
	ServicesUnread: {
		scope: OfHost, event: true,
		remediation: "Let the agent list and watch ServiceCIDRs as the chart's value serviceCIDRObjects does, and choose ranges of Services " +
			"outside the pods'. The API has ServiceCIDRs since Kubernetes 1.33; before that, use --service-cidr alone.",
	},
	Contested: {
		scope: OfHost, blocks: may, ready: "uncontested", event: true,
		remediation: "Find the program that reverts it (ip monitor, nft monitor, auditctl) and configure it to leave plainroute's " +
			"objects alone; often it is another pod network, NetworkManager, systemd-networkd or a firewall's script.",
	},
	PodNetworkReady: {severity: Info, event: true},

	Missing:  {by: drift, severity: Error, remediation: driftRemediation},
	Altered:  {by: drift, severity: Error, remediation: driftRemediation},
	Unwanted: {by: drift, severity: Error, remediation: driftRemediation},

	NotManaged: {by: fleet, severity: Info},
	NoAgent: {
		by: fleet, severity: Error,
		remediation: "Find out why the DaemonSet has no pod there (kubectl describe daemonset): its nodeSelector or affinity excludes " +
			"the node, or the API server rejects pods. Routes stay unchanged meanwhile.",
	},
	NotRunning: {
		by: fleet, severity: Error,
		remediation: "See the agent's pod there (kubectl get pods -A -l app.kubernetes.io/part-of=plainroute -o wide) and its log: the " +
			"image must be available on the node, and the flags must be valid. Routes stay unchanged meanwhile.",
	},
	Forbidden: {by: fleet, severity: Error},
	NoAnswer: {
		by: fleet, severity: Error,
		remediation: "Check that the node's kubelet is up and the API server reaches it (port 10250), and that the agent listens there " +
			"(--listen). If so, the agent hangs: delete its pod, which interrupts no traffic. Routes stay unchanged meanwhile.",
	},
	Unreadable: {by: fleet, severity: Error, remediation: "Use the plainroute of the agents' version."},
	NodeNotReady: {
		by: fleet,
		remediation: "Right after an install this ends within seconds. If the message mentions CNI or the network and persists, the " +
			"container runtime reads its configs from another folder than the agent writes them to (the chart's cni.confDir; " +
			"k3s and MicroK8s have their own); else see the kubelet's log.",
	},
	NoRoute:      {by: fleet, remediation: seeLog},
	NotReady:     {by: fleet, severity: Error, remediation: seeLog},
	MoreProblems: {by: fleet},
	Asymmetry: {
		by:          fleet,
		remediation: "Solve the problems of the Node without the route, above; if its agent does not answer, begin with that.",
	},
	Disagreement: {
		by: fleet,
		remediation: "An agent that differs from most has an old view of the Nodes: check that it reaches the API server (plainroute " +
			"status there). If all do, two Nodes claim the subnet: delete the wrong one, and restart its kubelet, which " +
			"registers it again.",
	},
	Oversize: {
		by: fleet,
		remediation: "Set one MTU on the links of all Nodes (ip link set DEV mtu SIZE, and in the link's configuration), or pass all " +
			"agents the --mtu that fits the smallest, less what a tunnel adds; new pods have it.",
	},
	TunnelMismatch: {
		by: fleet, severity: Error,
		remediation: "Give all agents the same --vxlan-port and --vxlan-id (the chart's vxlan.port and vxlan.id). While they change node by " +
			"node, packets in tunnels between nodes with different values are lost.",
	},
	MixedEncapsulation: {
		by: fleet, severity: Info,
		remediation: "Nothing during a rollout. Otherwise give all agents the same --encapsulation; between never and always change all to " +
			"cross-subnet first.",
	},
	Versions: {
		by: fleet, severity: Info,
		remediation: "Nothing during a rollout. Otherwise: kubectl rollout status daemonset, and an image of the same tag on each " +
			"node.",
	},

	ProbeFailed: {
		by: connectivity, severity: Error,
		remediation: "Run plainroute status --cluster --problems, and for the nodes that are named plainroute doctor --cluster.",
	},
	SourceTranslated: {
		by: connectivity, severity: Error,
		remediation: "Find the rule, usually on the node of the pod that sent it: nft list ruleset | grep -i masquerade, iptables-save -t nat | " +
			"grep -i masquerade. Delete that rule, or exclude the pods' addresses from it; kube-proxy's --cluster-cidr must contain all of " +
			"them.",
	},
	NodeAbsent: {by: connectivity, severity: Error},
	CommonNode: {by: connectivity, severity: Info, remediation: "Begin with that node."},
	TCPDropped: {
		by: connectivity, severity: Info,
		remediation: "A firewall drops TCP, on one of the nodes or between them: nft list ruleset, iptables-save.",
	},
	DatagramsDropped: {
		by: connectivity, severity: Info,
		remediation: "A firewall drops datagrams, on one of the nodes or between them: nft list ruleset, iptables-save.",
	},
	LargeDropped: {
		by: connectivity, severity: Info,
		remediation: "The MTU of the path is smaller than the pods'. Run plainroute doctor --cluster, and check the agents' --mtu.",
	},
	ServiceUnreached: {by: connectivity, severity: Info, remediation: "Check kube-proxy on these nodes."},
	NamesUnresolved: {
		by: connectivity, severity: Info,
		remediation: "Check the cluster's DNS: kubectl -n kube-system get pods,endpointslices -l k8s-app=kube-dns -o wide.",
	},
	NodeUnreached: {by: connectivity, severity: Info, remediation: "Find the firewall on that node that drops packets from pods."},
	OutsideUnreached: {
		by: connectivity, severity: Info,
		remediation: "Check that the nodes reach these hosts, and that the agent masquerades (--masquerade).",
	},
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

// Remediation returns how to solve such a Problem, in a sentence or two; empty if the message has
// it.
func (r Reason) Remediation() string { return r.entry().remediation }

// Ready returns the name of the check of /readyz that such a Problem fails; empty if it does not
// block readiness.
func (r Reason) Ready() string { return r.entry().ready }

// Blocks returns whether such Problems block readiness.
func (r Reason) Blocks() Blocks { return r.entry().blocks }

// Event reports whether a node records such a Problem as an Event on its Node.
func (r Reason) Event() bool { return r.entry().event }
