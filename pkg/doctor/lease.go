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

// lease is an address that host-local gave to a pod: a file named by it, with the
// container's ID in the first line (plugins/ipam/host-local of containernetworking).
type lease struct {
	addr      netip.Addr
	container string
	path      string
	age       time.Duration
}

func (p *Patient) leasesHeld() ([]lease, error) {
	dir := filepath.Join(p.Store.RunDir, topology.IPAMDir, topology.Network)
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
			continue // given back meanwhile
		}
		id, _, _ := strings.Cut(string(content), "\n")
		all = append(all, lease{addr, strings.TrimSpace(id), path, time.Since(info.ModTime())})
	}
	slices.SortFunc(all, func(a, b lease) int { return a.addr.Compare(b.addr) })
	return all, nil
}

// ownSubnets are our pod subnets.
func (p *Patient) ownSubnets() []netip.Prefix {
	var all []netip.Prefix
	for _, s := range p.Subnets() {
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

// renamedBridge is the name that the pods' bridge has now, if that is another.
func (p *Patient) renamedBridge() string { return p.Host.RenamedBridge(p.Bridge, p.ownSubnets(), "") }

// bridgeAddress compares the addresses of the pods' bridge, their gateway, with this
// node's pod subnets, and looks whether another device has them.
func bridgeAddress(_ context.Context, p *Patient) []problem.Problem {
	subnets := p.ownSubnets()
	switch {
	case p.KernelErr != nil:
		return Skip("the kernel can't be looked at: "+p.KernelErr.Error(), "")
	case len(subnets) == 0:
		return Skip(noSubnets+errorText(p.NodesErr), "run it in the agent's pod, or give --kubeconfig FILE and --node-name NAME")
	}
	if name := p.renamedBridge(); name != "" {
		return []problem.Problem{Fail("the pods' bridge was renamed, so the next pod gets another one, and those on this one are cut off", fmt.Sprintf("it is %s now", name),
			fmt.Sprintf("`ip link set dev %s name %s` (before Linux 6.2 it has to be down for that; the agent sets it up again)", name, p.Bridge))}
	}
	found := slices.Concat(p.rivalBridges(subnets), p.cutPorts(), p.mutePorts(), p.narrowBridge())
	if p.State.Bridge == "" || p.moves() {
		return found // no pod was attached yet, or old-subnet says what to do
	}
	var have []string
	for _, a := range p.State.Addresses {
		have = append(have, a.String())
		if !within(subnets, a.Prefix.Addr()) {
			found = append(found, Fail("the pods' bridge has an address that is not of this node's pod subnets", fmt.Sprintf("%s; the subnets are %s", a, strings.Join(p.Subnets(), ", ")),
				"if the Node was made anew, delete the pods that are older than it, and the agent takes the address away; or: `ip address del "+a.String()+"`"))
		}
	}
	for _, s := range subnets {
		want := topology.Address{Dev: p.State.Bridge, Prefix: netip.PrefixFrom(gateway(s), s.Bits())}
		if !slices.Contains(p.State.Addresses, want) {
			found = append(found, Fail("the pods' bridge lacks the address that is the pods' gateway, so they reach nobody beyond this node", fmt.Sprintf("%s is missing; there is %s", want, strings.Join(append(have, "nothing else"), ", ")),
				"the agent puts it back at once: look whether it runs; or: `ip address add "+want.String()+"`"))
		}
	}
	return found
}

// cutPorts are the bridge if it is down, and ports that are, or may be, of pods and are down or not in it.
func (p *Patient) cutPorts() []problem.Problem {
	var found []problem.Problem
	for _, d := range p.State.Devices {
		switch {
		case d.Name == p.State.Bridge && !d.Up:
			found = append(found, Fail("the pods' bridge is down, so this node's pods reach nobody", "ip link shows "+d.String(),
				"the agent sets it up at once: look whether it runs; or: `ip link set dev "+d.Name+" up`"))
		case d.Pod.IsValid() && (d.Duplicate != "" || d.Master != "" && d.Master != p.Bridge):
			found = append(found, Warn("a container that is not in the pods' bridge has a pod's address", fmt.Sprintf("%s leads to %s, and ip link shows %s", d.Name, d.Pod, d),
				"look whose it is, because another network's container may have given itself that address: take it from that one. If it is the pod's own, delete the pod, and the new one's port is in the bridge"))
		case d.Pod.IsValid():
			found = append(found, Fail("a pod is cut off: its port is not in the pods' bridge, or down", fmt.Sprintf("%s leads to the pod %s, and ip link shows %s", d.Name, d.Pod, d),
				fmt.Sprintf("the agent puts it back at once: look whether it runs; or: `ip link set dev %s master %s up; ip link set dev %s type bridge_slave hairpin on`", d.Name, p.Bridge, d.Name)))
		}
	}
	return found
}

// narrowBridge tells that the bridge takes smaller packets than new pods send: it keeps its MTU for the older ones when
// the agent is given a larger one.
func (p *Patient) narrowBridge() []problem.Problem {
	for _, d := range p.State.Devices {
		if size := p.podMTU(); d.Name == p.State.Bridge && 0 < d.MTU && d.MTU < size {
			return []problem.Problem{Warn("the pods' bridge takes smaller packets than new pods send, so fragments and large datagrams to them are lost", fmt.Sprintf("%s has an MTU of %d, and new pods have %d", d.Name, d.MTU, size),
				fmt.Sprintf("make the pods anew that are older than the change of the MTU, and then: `ip link set dev %s mtu %d`", d.Name, size))}
		}
	}
	return nil
}

// moves tells that the agent leaves the bridge as it is until the last pod of a former subnet is gone: to take its
// address away would cut that pod.
func (p *Patient) moves() bool {
	return p.Report != nil && slices.ContainsFunc(p.Report.Problems, func(q problem.Problem) bool { return q.Reason == problem.SubnetChanged })
}

// rivalBridges are devices of others, as cni0 of another network, with addresses of our
// pod subnets: the kernel takes our pods to be there.
func (p *Patient) rivalBridges(subnets []netip.Prefix) []problem.Problem {
	var found []problem.Problem
	for _, link := range p.Host.Links {
		for _, a := range link.Addrs {
			if link.Name != p.Bridge && !link.Loopback && within(subnets, a.Addr()) {
				found = append(found, Fail("another device has an address of this node's pod subnets, and takes what is for the pods", fmt.Sprintf("%s dev %s", a, link.Name), rivalCure(link.Name)))
			}
		}
	}
	return found
}

// rivalCure deletes nothing but what a pod network is known to leave: this node may be reached by
// any other device.
func rivalCure(dev string) string {
	for _, t := range traces {
		if len(matching([]string{dev}, t.tunnels)) > 0 {
			return "it is left of " + t.network + ", and other nodes may still send into it: " + t.cure
		}
		if len(matching([]string{dev}, t.devices)) > 0 {
			return "it is left of " + t.network + "; once no pod uses it: `ip link del " + dev + "`"
		}
	}
	return "give the pods another range (--cluster-cidr of the controller manager), or the network of " + dev + "; leave the device as it is, because this node may be reached by it"
}

// fresh is the age below which a lease's pod may still be in the making.
const fresh = time.Minute

// leakedLeases finds leases whose address nobody has: plugins that were killed, or a
// crash of the container runtime, leave them, until no address is left.
func leakedLeases(ctx context.Context, p *Patient) []problem.Problem {
	if p.Kernel == nil || p.KernelErr != nil {
		return Skip("the kernel can't be looked at", "")
	}
	if name := p.renamedBridge(); name != "" {
		return Skip("the pods' bridge is called "+name+" now, where no pod is asked", "give it its name back, see bridge-address")
	}
	all, err := p.leasesHeld()
	if err != nil {
		return Skip(err.Error(), "mount the run folder, or say where it is: --run-dir")
	}
	if why := unwritable(p.Store.RunDir); why != "" {
		return []problem.Problem{Fail("no pod can be made: the plugin host-local can't write down which address it gives", why, "see what fills it, or mounted it so, and end that: df -h, df -i and findmnt "+p.Store.RunDir)}
	}
	silent, ports, err := p.unclaimed(ctx, all)
	if err != nil {
		return Skip(err.Error(), "")
	}
	crowded := p.crowded(all)
	verdict, room := Warn, ""
	if crowded != "" {
		verdict, room = Fail, crowded+"; "
	}
	var containers, shown []string
	for _, l := range silent {
		if !slices.Contains(containers, l.container) {
			containers = append(containers, l.container)
		}
		shown = append(shown, fmt.Sprintf("%s, given %s ago to container %s", l.addr, l.age.Round(time.Second), l.container))
	}
	switch {
	case len(containers) > 0 && ports <= 0:
		return []problem.Problem{verdict(fmt.Sprintf("%d addresses are leaked: they are given to containers, and nobody on the bridge has them", len(silent)), room+first(shown), giveBack(p.onHost(filepath.Dir(silent[0].path)), containers))}
	case len(containers) > ports:
		return []problem.Problem{verdict(fmt.Sprintf("addresses of at least %d containers are leaked: nobody answers for those of %d", len(containers)-ports, len(containers)),
			fmt.Sprintf("%s%d ports of the bridge are of pods that don't answer; %s", room, ports, first(shown)),
			"see which containers live, and remove the files of the others alone: `crictl pods --no-trunc`; the first line of each file in "+p.onHost(filepath.Dir(silent[0].path))+" is its container's ID")}
	case crowded != "":
		return []problem.Problem{Warn("the node runs out of addresses for pods", crowded, "give Nodes larger pod subnets (--node-cidr-mask-size of the controller manager, for Nodes made anew), or the kubelet fewer pods: maxPods")}
	}
	return nil
}

// unwritable returns why no file can be made in a folder, by its file system, "" if it can or nothing is
// known. btrfs counts no inodes.
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

// giveBack is how to free the leases of containers by hand, of which few are named. The command goes by
// the container's ID, because the address may be another pod's when somebody runs it.
func giveBack(dir string, containers []string) string {
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
	cure := "give the addresses back: `" + strings.Join(all, "; ") + "`"
	if more := len(containers) - len(all); more > 0 {
		cure += fmt.Sprintf("; and so for %d containers more, whose IDs are in the first lines of the files there and not in `crictl pods --no-trunc`", more)
	}
	return cure
}

// containerID is what a container runtime may choose (CNI's specification, CNI_CONTAINERID).
var containerID = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]*$`)

// batch is how many addresses are asked at a time: the neighbor table has to hold them all.
const batch = 512

// unclaimed returns the leases that are not fresh and for which nobody answers, and how many ports are
// of pods that no answer came from: so many of the containers may live, for a port that is there
// and forwards nothing (blocked by STP, a filter) hides its pod.
func (p *Patient) unclaimed(ctx context.Context, all []lease) (silent []lease, ports int, err error) {
	heard := p.attached(all)
	if ports, err = p.portsOfPods(); err != nil {
		return nil, 0, err
	}
	if ports > 0 && slices.ContainsFunc(p.State.Devices, func(d topology.Device) bool { return d.Name == p.State.Bridge && !d.Up }) {
		return nil, ports, nil // no pod can answer
	}
	for some := range slices.Chunk(all, batch) {
		if len(heard) >= ports || ctx.Err() != nil {
			break
		}
		if err := p.hear(ctx, some, heard); err != nil {
			return nil, 0, err
		}
	}
	for _, l := range all {
		if !heard[l.container] && l.age > fresh && !p.runs(l.container) {
			silent = append(silent, l)
		}
	}
	return silent, max(0, ports-len(heard)), nil
}

// hear asks the addresses of leases: a pod's kernel answers ARP whatever the pod is doing.
func (p *Patient) hear(ctx context.Context, leases []lease, heard map[string]bool) error {
	var questions []question
	var targets []target
	for _, l := range leases {
		questions = append(questions, question{l.addr, small})
		targets = append(targets, target{hop: l.addr, entry: inspect.Neighbor{Addr: l.addr, Dev: p.Bridge, State: inspect.Failed}})
	}
	answers, err := ask(ctx, questions, again)
	if err != nil {
		return err
	}
	silent, err := p.silent(ctx, &round{answers: answers}, targets)
	if err != nil {
		return err
	}
	for _, l := range leases {
		if !slices.ContainsFunc(silent, func(t target) bool { return t.hop == l.addr }) {
			heard[l.container] = true
		}
	}
	return nil
}

// portsOfPods is how many ports pods have: those of the bridge, and those that may have been taken
// out of it, as the stock plugin names them.
func (p *Patient) portsOfPods() (int, error) {
	devices, err := p.Kernel.Devices()
	if err != nil {
		return 0, err
	}
	ports := 0
	for _, d := range devices {
		if d.Master == p.Bridge || d.Kind == "veth" && d.Master == "" && podPort.MatchString(d.Name) {
			ports++
		}
	}
	return ports, nil
}

// podPort is how the plugin names a pod's port (RandomVethName of containernetworking/plugins/pkg/ip).
var podPort = regexp.MustCompile("^veth[0-9a-f]{8}$")

// attached returns the containers one of whose addresses is in a network namespace, whether a port leads to it or not,
// and whether it can answer. Where the kernel shows no namespaces, there are none.
func (p *Patient) attached(all []lease) map[string]bool {
	guests, _ := p.Kernel.PeerNamespaces(p.Bridge)
	lives := map[string]bool{}
	for _, l := range all {
		if slices.ContainsFunc(guests, func(g inspect.PeerNamespace) bool { return slices.Contains(g.Addrs, l.addr) }) {
			lives[l.container] = true
		}
	}
	return lives
}

// runs tells whether containerd has a sandbox of that ID, where its folder can be seen.
func (p *Patient) runs(container string) bool {
	return container != "" && filepath.IsLocal(container) && p.exists("/run/containerd/io.containerd.runtime.v2.task/k8s.io/"+container)
}

// crowded says which subnet has less than a tenth of its addresses left, if any has.
func (p *Patient) crowded(all []lease) string {
	for _, s := range p.ownSubnets() {
		room, used := topology.PodCapacity(s), 0
		if room == 0 || room > 1<<16 {
			continue // no pod can be there, or more than a node has
		}
		for _, l := range all {
			if s.Contains(l.addr) {
				used++
			}
		}
		if used*10 >= room*9 {
			return fmt.Sprintf("%d of %d addresses of %s are given", used, room, s)
		}
	}
	return ""
}

// oldSubnet finds pods that were attached while the Node had another pod subnet: other
// nodes' routes to it lead elsewhere, or nowhere.
func oldSubnet(_ context.Context, p *Patient) []problem.Problem {
	subnets := p.ownSubnets()
	if len(subnets) == 0 {
		return Skip(noSubnets+errorText(p.NodesErr), "run it in the agent's pod, or give --kubeconfig FILE and --node-name NAME")
	}
	if p.KernelErr != nil || p.Host.Ports == 0 {
		return nil // no pod is attached
	}
	all, err := p.leasesHeld()
	if err != nil {
		return Skip(err.Error(), "mount the run folder, or say where it is: --run-dir")
	}
	var shown []string
	for _, l := range all {
		if !within(subnets, l.addr) {
			shown = append(shown, fmt.Sprintf("%s is given to container %s", l.addr, l.container))
		}
	}
	shown = append(shown, p.strangers(subnets)...)
	if len(shown) == 0 {
		return nil
	}
	return []problem.Problem{Fail("pods have addresses of a former pod subnet, where nobody reaches them", fmt.Sprintf("%s; the subnets are %s", first(shown), strings.Join(p.Subnets(), ", ")),
		"delete those pods, and they come back with addresses of now: kubectl get pod -A -o wide --field-selector spec.nodeName=NODE, then kubectl delete pod")}
}

// strangers are neighbours on the bridge with addresses of no subnet of ours and no
// lease, as after an agent with another run folder.
func (p *Patient) strangers(subnets []netip.Prefix) []string {
	if p.Kernel == nil {
		return nil
	}
	table, _ := p.Kernel.Neighbors() // the leases say most of it
	var shown []string
	for _, n := range table {
		if n.Dev == p.Bridge && n.MAC != "" && n.State != inspect.Failed && !n.Addr.IsLinkLocalUnicast() && !within(subnets, n.Addr) {
			shown = append(shown, "ip neigh: "+n.String())
		}
	}
	return shown
}
