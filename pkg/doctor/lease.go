package doctor

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/cni"
	"github.com/plainroute/plainroute/pkg/inspect"
	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/text"
	"github.com/plainroute/plainroute/pkg/topology"
)

// A lease is an address that host-local gave to a container, and its age.
type lease struct {
	cni.Lease
	age time.Duration
}

func (t *Target) leaseDir() string {
	return filepath.Join(t.Store.RunDir, topology.IPAMDir, topology.Network)
}

// leases returns the leases by address.
func (t *Target) leases() ([]lease, error) {
	held, err := t.Store.HeldLeases()
	var all []lease
	for _, l := range held {
		if info, err := os.Stat(filepath.Join(t.leaseDir(), l.Addr.String())); err == nil { // else deleted meanwhile
			all = append(all, lease{l, time.Since(info.ModTime())})
		}
	}
	slices.SortFunc(all, func(a, b lease) int { return a.Addr.Compare(b.Addr) })
	return all, err
}

const giveRunDir = "mount the run folder, or give its path: --run-dir"

// minLeaseAge is the age of a lease below which its pod may not be attached yet.
const minLeaseAge = time.Minute

// leakedLeases finds leases whose addresses no container has, as killed plugins leave them.
func leakedLeases(ctx context.Context, t *Target) []problem.Problem {
	if name := t.renamedBridge(); name != "" {
		return Skip("the pods' bridge was renamed to "+name, "rename it, see the check bridge-address")
	}
	all, err := t.leases()
	if err != nil {
		return Skip(err.Error(), giveRunDir)
	}
	if reason := unwritable(t.Store.RunDir); reason != "" {
		return Fail("no pod can be attached: the plugin host-local can't write leases", reason, "free space there, or mount it writable: df -h, df -i and findmnt "+t.Store.RunDir)
	}
	silent, ports, err := t.silentLeases(ctx, all)
	if err != nil {
		return Skip(err.Error(), "")
	}
	full := t.nearlyFull(all)
	report, room := Warn, ""
	if full != "" {
		report, room = Fail, full+"; "
	}
	var containers, shown []string
	for _, l := range silent {
		if !slices.Contains(containers, l.Container) {
			containers = append(containers, l.Container)
		}
		shown = append(shown, fmt.Sprintf("%s, leased %s ago to container %s", l.Addr, l.age.Round(time.Second), l.Container))
	}
	switch {
	case len(containers) > 0 && ports <= 0:
		return report(fmt.Sprintf("%d addresses are leaked: they are leased to containers, and no container on the bridge has them", len(silent)), room+first(shown), releaseCommand(t.onHost(t.leaseDir()), containers))
	case len(containers) > ports:
		return report(fmt.Sprintf("addresses of at least %d containers are leaked: those of %d containers do not answer", len(containers)-ports, len(containers)),
			fmt.Sprintf("%s%d ports of the bridge are of pods that don't answer; %s", room, ports, first(shown)),
			"list the running containers, and remove only the files of others: `crictl pods --no-trunc`; the first line of each file in "+t.onHost(t.leaseDir())+" is its container's ID")
	case full != "":
		return Warn("the node runs out of addresses for pods", full, "give Nodes larger pod subnets (--node-cidr-mask-size of the controller manager, for new Nodes), or the kubelet fewer pods: maxPods")
	}
	return nil
}

// unwritable returns why no file can be added to a folder, or "". btrfs does not count inodes.
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

// releaseCommand frees the leases of the first few containers. The command selects files by container
// ID, because the address may be another pod's by the time it runs.
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
		remedy += "; " + text.More(more, "containers likewise, whose IDs are in the first lines of the files there and not in `crictl pods --no-trunc`")
	}
	return remedy
}

// containerID matches what a container runtime may choose (CNI specification, CNI_CONTAINERID).
var containerID = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]*$`)

// probeBatch is how many addresses are probed at a time: the neighbor table has to hold all of them.
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
	for batch := range slices.Chunk(all, probeBatch) {
		if len(alive) >= ports || ctx.Err() != nil {
			break
		}
		if err := t.probeLeases(ctx, batch, alive); err != nil {
			return nil, 0, err
		}
	}
	for _, l := range all {
		if !alive[l.Container] && l.age > minLeaseAge && !t.runs(l.Container) {
			silent = append(silent, l)
		}
	}
	return silent, max(0, ports-len(alive)), nil
}

// probeLeases marks containers that answer: a pod's kernel answers ARP whatever the pod is doing.
func (t *Target) probeLeases(ctx context.Context, leases []lease, alive map[string]bool) error {
	var probes []probe
	var hops []nextHop
	for _, l := range leases {
		probes = append(probes, probe{l.Addr, smallSize})
		hops = append(hops, newNextHop(peer{}, l.Addr, inspect.Route{Dev: t.Bridge}))
	}
	results, err := sendProbes(ctx, probes, resendAfter)
	if err != nil {
		return err
	}
	silent, err := t.silentHops(ctx, &sweep{results: results}, hops)
	for _, l := range leases {
		if err == nil && !slices.ContainsFunc(silent, func(h nextHop) bool { return h.entry.Addr == l.Addr }) {
			alive[l.Container] = true
		}
	}
	return err
}

// portsOfPods counts the bridge's ports, and detached ones with a name in the stock plugin's format.
func (t *Target) portsOfPods() (int, error) {
	devices, err := t.Kernel.Devices()
	ports := 0
	for _, d := range devices {
		if d.Master == t.Bridge || d.Kind == "veth" && d.Master == "" && podPort.MatchString(d.Name) {
			ports++
		}
	}
	return ports, err
}

// podPort matches RandomVethName of containernetworking/plugins/pkg/ip.
var podPort = regexp.MustCompile("^veth[0-9a-f]{8}$")

// attached returns the containers whose address is in some network namespace that can be read.
func (t *Target) attached(all []lease) map[string]bool {
	namespaces, _ := t.Kernel.PeerNamespaces(t.Bridge)
	alive := map[string]bool{}
	for _, l := range all {
		if slices.ContainsFunc(namespaces, func(n inspect.PeerNamespace) bool { return slices.Contains(n.Addrs, l.Addr) }) {
			alive[l.Container] = true
		}
	}
	return alive
}

// runs reports whether containerd has a sandbox of that ID, if its folder is visible.
func (t *Target) runs(container string) bool {
	return container != "" && filepath.IsLocal(container) && t.exists("/run/containerd/io.containerd.runtime.v2.task/k8s.io/"+container)
}

// nearlyFull describes a subnet with less than a tenth of its addresses left, "" if there is none.
func (t *Target) nearlyFull(all []lease) string {
	for _, s := range t.ownSubnets() {
		room, used := topology.PodCapacity(s), 0
		for _, l := range all {
			if s.Contains(l.Addr) {
				used++
			}
		}
		if 0 < room && room <= 1<<16 && used*10 >= room*9 { // a node has fewer pods than that
			return fmt.Sprintf("%d of %d addresses of %s are leased", used, room, s)
		}
	}
	return ""
}

// oldSubnet finds pods of a former pod subnet, to which other nodes have no route any more.
func oldSubnet(_ context.Context, t *Target) []problem.Problem {
	if t.KernelErr != nil || t.Host.Ports == 0 {
		return nil // no pod is attached
	}
	all, err := t.leases()
	if err != nil {
		return Skip(err.Error(), giveRunDir)
	}
	var shown []string
	for _, l := range all {
		if !within(t.ownSubnets(), l.Addr) {
			shown = append(shown, fmt.Sprintf("%s is leased to container %s", l.Addr, l.Container))
		}
	}
	shown = append(shown, t.strayNeighbors()...)
	if len(shown) == 0 {
		return nil
	}
	return Fail("pods have addresses of a former pod subnet, and other nodes can't reach them", first(shown)+t.theSubnetsAre(),
		"delete those pods, so that the new ones get addresses of the present subnet: kubectl get pod -A -o wide --field-selector spec.nodeName=NODE, then kubectl delete pod")
}

// strayNeighbors are pods of a former subnet without a lease, as after a change of the run folder.
func (t *Target) strayNeighbors() []string {
	if t.Kernel == nil {
		return nil
	}
	table, _ := t.Kernel.Neighbors() // the leases show most of them
	var shown []string
	for _, n := range table {
		if n.Dev == t.Bridge && n.MAC != "" && n.State != inspect.Failed && !n.Addr.IsLinkLocalUnicast() && !within(t.ownSubnets(), n.Addr) {
			shown = append(shown, "ip neigh: "+n.String())
		}
	}
	return shown
}
