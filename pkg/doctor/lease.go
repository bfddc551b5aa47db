package doctor

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/inspect"
	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/topology"
)

// A lease is an address that host-local gave to a pod: a file with the address as its name and the
// container's ID in the first line (plugins/ipam/host-local of containernetworking).
type lease struct {
	addr      netip.Addr
	container string
	path      string
	age       time.Duration
}

func (t *Target) leases() ([]lease, error) {
	dir := filepath.Join(t.Store.RunDir, topology.IPAMDir, topology.Network)
	entries, err := os.ReadDir(dir)
	if os.IsNotExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the leases: %w", err)
	}
	var all []lease
	for _, e := range entries {
		addr, err := netip.ParseAddr(e.Name())
		if err != nil {
			continue // host-local's lock, and the last address it gave
		}
		path := filepath.Join(dir, e.Name())
		content, err := os.ReadFile(path)
		info, statErr := e.Info()
		if err != nil || statErr != nil {
			continue // deleted meanwhile
		}
		id, _, _ := strings.Cut(string(content), "\n")
		all = append(all, lease{addr, strings.TrimSpace(id), path, time.Since(info.ModTime())})
	}
	slices.SortFunc(all, func(a, b lease) int { return a.addr.Compare(b.addr) })
	return all, nil
}

// ownSubnets are our pod subnets.
func (t *Target) ownSubnets() []netip.Prefix {
	var all []netip.Prefix
	for _, s := range t.Subnets() {
		if subnet, err := netip.ParsePrefix(s); err == nil {
			all = append(all, subnet)
		}
	}
	return all
}

func within(subnets []netip.Prefix, addr netip.Addr) bool {
	return slices.ContainsFunc(subnets, func(s netip.Prefix) bool { return s.Contains(addr) })
}

const noSubnets = "this node's pod subnets are not known: "

// renamedBridge returns the present name of the pods' bridge if it was renamed, else "".
func (t *Target) renamedBridge() string { return t.Host.RenamedBridge(t.Bridge, t.ownSubnets(), "") }

// bridgeAddress compares the addresses of the pods' bridge, their gateways, with this node's pod
// subnets, and looks for other devices with such addresses.
func bridgeAddress(_ context.Context, t *Target) []problem.Problem {
	subnets := t.ownSubnets()
	switch {
	case t.KernelErr != nil:
		return Skip("the kernel can't be looked at: "+t.KernelErr.Error(), "")
	case len(subnets) == 0:
		return Skip(noSubnets+errorText(t.NodesErr), "run it in the agent's pod, or give --kubeconfig FILE and --node-name NAME")
	}
	if name := t.renamedBridge(); name != "" {
		return []problem.Problem{Fail("the pods' bridge was renamed, so the next pod is attached to a new one, without a connection to the others", fmt.Sprintf("it is %s now", name),
			fmt.Sprintf("`ip link set dev %s name %s` (before Linux 6.2 it has to be down for that; the agent sets it up again)", name, t.Bridge))}
	}
	found := slices.Concat(t.overlappingDevices(subnets), t.detachedPorts(), t.nonForwardingPorts(), t.bridgeMTU())
	if t.State.Bridge == "" || t.subnetChanges() {
		return found // no pod was attached yet, or the check old-subnet covers it
	}
	var have []string
	for _, a := range t.State.Addresses {
		have = append(have, a.String())
		if !within(subnets, a.Prefix.Addr()) {
			found = append(found, Fail("the pods' bridge has an address that is not of this node's pod subnets", fmt.Sprintf("%s; the subnets are %s", a, strings.Join(t.Subnets(), ", ")),
				"if the Node was recreated, delete the pods that are older than it, and the agent deletes the address; or: `ip address del "+a.String()+"`"))
		}
	}
	for _, s := range subnets {
		want := topology.Address{Dev: t.State.Bridge, Prefix: netip.PrefixFrom(gateway(s), s.Bits())}
		if !slices.Contains(t.State.Addresses, want) {
			found = append(found, Fail("the pods' bridge lacks the address that is the pods' gateway, so they reach nothing beyond this node", fmt.Sprintf("%s is missing; there is %s", want, strings.Join(append(have, "nothing else"), ", ")),
				"the agent restores it at once: check whether the agent runs; or: `ip address add "+want.String()+"`"))
		}
	}
	return found
}

// detachedPorts reports a bridge that is down, and ports of pods that are down or not in the
// bridge.
func (t *Target) detachedPorts() []problem.Problem {
	var found []problem.Problem
	for _, d := range t.State.Devices {
		switch {
		case d.Name == t.State.Bridge && !d.Up:
			found = append(found, Fail("the pods' bridge is down, so this node's pods reach nothing", "ip link shows "+d.String(),
				"the agent sets it up at once: check whether the agent runs; or: `ip link set dev "+d.Name+" up`"))
		case d.Pod.IsValid() && (d.Rival != "" || d.Master != "" && d.Master != t.Bridge):
			found = append(found, Warn("a container that is not in the pods' bridge has a pod's address", fmt.Sprintf("%s leads to %s, and ip link shows %s", d.Name, d.Pod, d),
				"find the container: one of another network may have added that address, which has to be removed there. If it is the pod's own, delete the pod, because the new one's port is in the bridge"))
		case d.Pod.IsValid():
			found = append(found, Fail("a pod is cut off: its port is not in the pods' bridge, or down", fmt.Sprintf("%s leads to the pod %s, and ip link shows %s", d.Name, d.Pod, d),
				fmt.Sprintf("the agent restores it at once: check whether the agent runs; or: `ip link set dev %s master %s up; ip link set dev %s type bridge_slave hairpin on`", d.Name, t.Bridge, d.Name)))
		}
	}
	return found
}

// bridgeMTU reports a bridge with a smaller MTU than new pods have: when the agent is given a
// larger one, the bridge keeps its MTU for the older pods.
func (t *Target) bridgeMTU() []problem.Problem {
	for _, d := range t.State.Devices {
		if size := t.podMTU(); d.Name == t.State.Bridge && 0 < d.MTU && d.MTU < size {
			return []problem.Problem{Warn("the pods' bridge has a smaller MTU than new pods, so fragments and large datagrams to them are lost", fmt.Sprintf("%s has an MTU of %d, and new pods have %d", d.Name, d.MTU, size),
				fmt.Sprintf("recreate the pods that are older than the change of the MTU, and then: `ip link set dev %s mtu %d`", d.Name, size))}
		}
	}
	return nil
}

// subnetChanges reports whether the agent leaves the bridge as it is until the last pod of a former
// subnet is gone, because without its address the bridge would cut off that pod.
func (t *Target) subnetChanges() bool {
	return t.Report != nil && slices.ContainsFunc(t.Report.Problems, func(q problem.Problem) bool { return q.Reason == problem.SubnetChanged })
}

// overlappingDevices reports other devices, such as another network's cni0, with addresses in our
// pod subnets: the kernel sends our pods' packets there.
func (t *Target) overlappingDevices(subnets []netip.Prefix) []problem.Problem {
	var found []problem.Problem
	for _, link := range t.Host.Links {
		for _, a := range link.Addrs {
			if link.Name != t.Bridge && !link.Loopback && within(subnets, a.Addr()) {
				found = append(found, Fail("another device has an address of this node's pod subnets, and receives packets for the pods", fmt.Sprintf("%s dev %s", a, link.Name), deviceRemedy(link.Name)))
			}
		}
	}
	return found
}

// deviceRemedy deletes only devices that a pod network is known to leave behind, because this node
// may be reached by any other device.
func deviceRemedy(dev string) string {
	for _, n := range podNetworks {
		if len(matching([]string{dev}, n.tunnels)) > 0 {
			return "it is left of " + n.network + ", and other nodes may still send into it: " + n.remedy
		}
		if len(matching([]string{dev}, n.devices)) > 0 {
			return "it is left of " + n.network + "; once no pod uses it: `ip link del " + dev + "`"
		}
	}
	return "give the pods another range (--cluster-cidr of the controller manager), or the network of " + dev + "; leave the device as it is, because this node may be reached by it"
}

// minLeaseAge is the age of a lease below which its pod may not be attached yet.
const minLeaseAge = time.Minute

// leakedLeases finds leases whose addresses no container has. Killed plugins or a crash of the
// container runtime leave them, until no address is left.
func leakedLeases(ctx context.Context, t *Target) []problem.Problem {
	if t.Kernel == nil || t.KernelErr != nil {
		return Skip("the kernel can't be looked at", "")
	}
	if name := t.renamedBridge(); name != "" {
		return Skip("the pods' bridge was renamed to "+name, "rename it, see the check bridge-address")
	}
	all, err := t.leases()
	if err != nil {
		return Skip(err.Error(), "mount the run folder, or give its path: --run-dir")
	}
	if why := unwritable(t.Store.RunDir); why != "" {
		return []problem.Problem{Fail("no pod can be attached: the plugin host-local can't write leases", why, "free space there, or mount it writable: df -h, df -i and findmnt "+t.Store.RunDir)}
	}
	silent, ports, err := t.silentLeases(ctx, all)
	if err != nil {
		return Skip(err.Error(), "")
	}
	nearlyFull := t.nearlyFull(all)
	severity, room := Warn, ""
	if nearlyFull != "" {
		severity, room = Fail, nearlyFull+"; "
	}
	var containers, shown []string
	for _, l := range silent {
		if !slices.Contains(containers, l.container) {
			containers = append(containers, l.container)
		}
		shown = append(shown, fmt.Sprintf("%s, leased %s ago to container %s", l.addr, l.age.Round(time.Second), l.container))
	}
	switch {
	case len(containers) > 0 && ports <= 0:
		return []problem.Problem{severity(fmt.Sprintf("%d addresses are leaked: they are leased to containers, and no container on the bridge has them", len(silent)), room+first(shown), releaseCommand(t.onHost(filepath.Dir(silent[0].path)), containers))}
	case len(containers) > ports:
		return []problem.Problem{severity(fmt.Sprintf("addresses of at least %d containers are leaked: those of %d containers do not answer", len(containers)-ports, len(containers)),
			fmt.Sprintf("%s%d ports of the bridge are of pods that don't answer; %s", room, ports, first(shown)),
			"list the running containers, and remove only the files of others: `crictl pods --no-trunc`; the first line of each file in "+t.onHost(filepath.Dir(silent[0].path))+" is its container's ID")}
	case nearlyFull != "":
		return []problem.Problem{Warn("the node runs out of addresses for pods", nearlyFull, "give Nodes larger pod subnets (--node-cidr-mask-size of the controller manager, for new Nodes), or the kubelet fewer pods: maxPods")}
	}
	return nil
}

// unwritable returns why no file can be added to a folder's file system, "" if one can or that is
// unknown. btrfs does not count inodes.
func unwritable(dir string) string {
	var at unix.Statfs_t
	switch err := unix.Statfs(dir, &at); {
	case err != nil:
		return ""
	case at.Flags&unix.ST_RDONLY != 0:
		return "the file system of " + dir + " is read-only"
	case at.Blocks > 0 && at.Bfree == 0:
		return "the file system of " + dir + " is full"
	case at.Files > 0 && at.Ffree == 0:
		return "the file system of " + dir + " has no inode left"
	}
	return ""
}

// releaseCommand returns the remediation that frees the leases of containers, the first few of them
// by name. The command selects files by container ID, because the address may be another pod's by
// the time it runs.
func releaseCommand(dir string, containers []string) string {
	const few = 3
	var all []string
	for _, id := range containers {
		if len(all) < few && containerID.MatchString(id) {
			all = append(all, fmt.Sprintf("grep -lr '^%s' %s | xargs -r rm", id, dir))
		}
	}
	if len(all) == 0 {
		return "remove their files in " + dir
	}
	remedy := "give the addresses back: `" + strings.Join(all, "; ") + "`"
	if more := len(containers) - len(all); more > 0 {
		remedy += fmt.Sprintf("; and so for %d containers more, whose IDs are in the first lines of the files there and not in `crictl pods --no-trunc`", more)
	}
	return remedy
}

// containerID matches the IDs that a container runtime may choose (CNI specification,
// CNI_CONTAINERID).
var containerID = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]*$`)

// probeBatch is how many addresses are probed at a time: the neighbor table has to hold all of
// them.
const probeBatch = 512

// silentLeases returns the leases of at least minLeaseAge whose addresses do not answer, and the
// number of pods' ports without any answer. So many of the containers may be alive, because a port
// that forwards nothing (blocked by STP, a filter) hides its pod.
func (t *Target) silentLeases(ctx context.Context, all []lease) (silent []lease, ports int, err error) {
	alive := t.attached(all)
	if ports, err = t.portsOfPods(); err != nil {
		return nil, 0, err
	}
	if ports > 0 && slices.ContainsFunc(t.State.Devices, func(d topology.Device) bool { return d.Name == t.State.Bridge && !d.Up }) {
		return nil, ports, nil // no pod can answer
	}
	for some := range slices.Chunk(all, probeBatch) {
		if len(alive) >= ports || ctx.Err() != nil {
			break
		}
		if err := t.probeLeases(ctx, some, alive); err != nil {
			return nil, 0, err
		}
	}
	for _, l := range all {
		if !alive[l.container] && l.age > minLeaseAge && !t.runs(l.container) {
			silent = append(silent, l)
		}
	}
	return silent, max(0, ports-len(alive)), nil
}

// probeLeases probes the addresses of leases, and marks the containers that answer: a pod's kernel
// answers ARP whatever the pod is doing.
func (t *Target) probeLeases(ctx context.Context, leases []lease, alive map[string]bool) error {
	var probes []probe
	var nextHops []nextHop
	for _, l := range leases {
		probes = append(probes, probe{l.addr, smallSize})
		nextHops = append(nextHops, nextHop{hop: l.addr, entry: inspect.Neighbor{Addr: l.addr, Dev: t.Bridge, State: inspect.Failed}})
	}
	results, err := sendProbes(ctx, probes, resendAfter)
	if err != nil {
		return err
	}
	silent, err := t.silent(ctx, &sweep{results: results}, nextHops)
	if err != nil {
		return err
	}
	for _, l := range leases {
		if !slices.ContainsFunc(silent, func(h nextHop) bool { return h.hop == l.addr }) {
			alive[l.container] = true
		}
	}
	return nil
}

// portsOfPods counts the ports of pods: those of the bridge, and detached ones with a name in the
// stock plugin's format.
func (t *Target) portsOfPods() (int, error) {
	devices, err := t.Kernel.Devices()
	if err != nil {
		return 0, err
	}
	ports := 0
	for _, d := range devices {
		if d.Master == t.Bridge || d.Kind == "veth" && d.Master == "" && podPort.MatchString(d.Name) {
			ports++
		}
	}
	return ports, nil
}

// podPort matches the plugin's names of pods' ports (RandomVethName of
// containernetworking/plugins/pkg/ip).
var podPort = regexp.MustCompile("^veth[0-9a-f]{8}$")

// attached returns the containers with an address in some network namespace, with or without a port
// to it. Without access to namespaces there are none.
func (t *Target) attached(all []lease) map[string]bool {
	guests, _ := t.Kernel.PeerNamespaces(t.Bridge)
	lives := map[string]bool{}
	for _, l := range all {
		if slices.ContainsFunc(guests, func(g inspect.PeerNamespace) bool { return slices.Contains(g.Addrs, l.addr) }) {
			lives[l.container] = true
		}
	}
	return lives
}

// runs reports whether containerd has a sandbox of that ID, if its folder is visible.
func (t *Target) runs(container string) bool {
	return container != "" && filepath.IsLocal(container) && t.exists("/run/containerd/io.containerd.runtime.v2.task/k8s.io/"+container)
}

// nearlyFull describes a subnet with less than a tenth of its addresses left, "" if there is none.
func (t *Target) nearlyFull(all []lease) string {
	for _, s := range t.ownSubnets() {
		room, used := topology.Room(s), 0
		if room == 0 || room > 1<<16 {
			continue // no pod can be there, or more than a node has
		}
		for _, l := range all {
			if s.Contains(l.addr) {
				used++
			}
		}
		if used*10 >= room*9 {
			return fmt.Sprintf("%d of %d addresses of %s are leased", used, room, s)
		}
	}
	return ""
}

// oldSubnet finds pods that were attached while the Node had another pod subnet: other nodes'
// routes to it lead elsewhere, or do not exist.
func oldSubnet(_ context.Context, t *Target) []problem.Problem {
	subnets := t.ownSubnets()
	if len(subnets) == 0 {
		return Skip(noSubnets+errorText(t.NodesErr), "run it in the agent's pod, or give --kubeconfig FILE and --node-name NAME")
	}
	if t.KernelErr != nil || t.Host.Ports == 0 {
		return nil // no pod is attached
	}
	all, err := t.leases()
	if err != nil {
		return Skip(err.Error(), "mount the run folder, or give its path: --run-dir")
	}
	var shown []string
	for _, l := range all {
		if !within(subnets, l.addr) {
			shown = append(shown, fmt.Sprintf("%s is leased to container %s", l.addr, l.container))
		}
	}
	shown = append(shown, t.strayNeighbors(subnets)...)
	if len(shown) == 0 {
		return nil
	}
	return []problem.Problem{Fail("pods have addresses of a former pod subnet, and other nodes can't reach them", fmt.Sprintf("%s; the subnets are %s", first(shown), strings.Join(t.Subnets(), ", ")),
		"delete those pods, so that the new ones get addresses of the present subnet: kubectl get pod -A -o wide --field-selector spec.nodeName=NODE, then kubectl delete pod")}
}

// strayNeighbors are neighbors on the bridge with an address outside of our subnets and without a
// lease, as after an agent with another run folder.
func (t *Target) strayNeighbors(subnets []netip.Prefix) []string {
	if t.Kernel == nil {
		return nil
	}
	table, _ := t.Kernel.Neighbors() // the leases say most of it
	var shown []string
	for _, n := range table {
		if n.Dev == t.Bridge && n.MAC != "" && n.State != inspect.Failed && !n.Addr.IsLinkLocalUnicast() && !within(subnets, n.Addr) {
			shown = append(shown, "ip neigh: "+n.String())
		}
	}
	return shown
}
