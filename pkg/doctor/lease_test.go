package doctor

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"
	rtnl "github.com/vishvananda/netlink"

	"github.com/plainroute/plainroute/pkg/cni"
	"github.com/plainroute/plainroute/pkg/dataplane"
	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/status"
	"github.com/plainroute/plainroute/pkg/topology"
	"github.com/plainroute/plainroute/test/testutil"
)

// A host is a node on which the stock plugins attach pods.
type host struct {
	*lan
	*Target
	conf    *libcni.NetworkConfigList
	plugins *libcni.CNIConfig
}

func newHost(t *testing.T) *host {
	t.Helper()
	dir := testutil.NeedPlugins(t)
	l := newLAN(t)
	h := &host{lan: l, Target: l.target()}
	h.plugins = libcni.NewCNIConfigWithCacheDir([]string{dir}, t.TempDir(), nil)
	h.configure(1)
	t.Cleanup(func() {
		if bridge, err := l.nl.LinkByName(topology.Bridge); err == nil {
			l.must(l.nl.LinkDel(bridge))
		}
	})
	return h
}

// configure writes the CNI config that the agent would for the subnets of Node n.
func (h *host) configure(n int) {
	h.t.Helper()
	text, err := cni.Render(topology.CNI{Bridge: topology.Bridge, MTU: podMTU, Subnets: prefixes(n), IPAMDir: filepath.Join(h.Store.RunDir, topology.IPAMDir)})
	h.must(err)
	h.conf, err = libcni.ConfListFromBytes(text)
	h.must(err)
}

// pod attaches one, and makes its lease old enough for the check.
func (h *host) pod(name string) (detach func()) {
	h.t.Helper()
	m := h.namespace(name)
	runtime := &libcni.RuntimeConf{ContainerID: name, NetNS: "/run/netns/" + name, IfName: "eth0"}
	_, err := h.plugins.AddNetworkList(h.t.Context(), h.conf, runtime)
	h.must(err)
	leases, err := filepath.Glob(filepath.Join(h.Store.RunDir, topology.IPAMDir, topology.Network, "*"))
	h.must(err)
	for _, file := range leases {
		hour := time.Now().Add(-time.Hour)
		h.must(os.Chtimes(file, hour, hour))
	}
	return func() {
		// A killed plugin leaves the lease without a device.
		cable, err := m.nl.LinkByName("eth0")
		h.must(err)
		h.must(m.nl.LinkDel(cable))
	}
}

// look reads the kernel again.
func (h *host) look() *Target {
	h.t.Helper()
	kernel, err := dataplane.New(dataplane.Config{Bridge: topology.Bridge, ProcSys: "/proc/sys", ResolvConf: "/dev/null", CNI: h.Store})
	h.must(err)
	defer kernel.Close()
	h.Host, err = kernel.Facts(h.t.Context(), nil)
	h.must(err)
	h.Target.State, err = kernel.Observe(h.t.Context())
	h.must(err)
	return h.Target
}

func (h *host) must(err error) { h.t.Helper(); h.lan.must(err) }

func TestPodsAreHealthy(t *testing.T) {
	h := newHost(t)
	well(t, runCheck(t, "bridge-address", h.look()))
	h.pod("web")
	h.pod("db")
	took := quickest(func() {
		well(t, runCheck(t, "bridge-address", h.look()))
		well(t, runCheck(t, "leases", h.Target))
		well(t, runCheck(t, "old-subnet", h.Target))
	})
	if took > sweepTimeout {
		t.Errorf("it took %s where all is well", took)
	}
}

func TestLeakedLeases(t *testing.T) {
	h := newHost(t)
	kill := h.pod("killed")
	h.pod("alive")
	kill()
	finds(t, runCheck(t, "leases", h.look()), problem.Warning, "2 addresses are leaked", "container killed", "| xargs -r rm`", "10.244.1.2")
	// A container that the container runtime has is not leaked.
	h.must(os.MkdirAll(h.Path("/run/containerd/io.containerd.runtime.v2.task/k8s.io/killed"), 0o755))
	well(t, runCheck(t, "leases", h.look()))
}

func TestAllLeasesAreLeaked(t *testing.T) {
	h := newHost(t)
	h.pod("killed")()
	finds(t, runCheck(t, "leases", h.look()), problem.Warning, "2 addresses are leaked")
}

// A few of many containers are named, and the rest is counted. No file's text gets into a command.
func TestRemedyOfManyLeases(t *testing.T) {
	var ids []string
	for n := range 253 {
		ids = append(ids, fmt.Sprintf("c%d", n))
	}
	if remedy := releaseCommand("/run/leases", ids); !strings.Contains(remedy, "`grep -lr '^c0' /run/leases | xargs -r rm; grep -lr '^c1' ") || !strings.Contains(remedy, "; and 250 more containers likewise") {
		t.Errorf("of 253: %s", remedy)
	}
	if remedy := releaseCommand("/run/leases", ids[:3]); strings.Contains(remedy, "more") {
		t.Errorf("of 3: %s", remedy)
	}
	if remedy := releaseCommand("/run/leases", []string{"'; reboot; '"}); strings.Contains(remedy, "reboot") {
		t.Errorf("of an odd one: %s", remedy)
	}
}

func TestSubnetIsNearlyFull(t *testing.T) {
	h := newHost(t)
	h.pod("killed")()
	h.crowd()
	finds(t, runCheck(t, "leases", h.look()), problem.Error, "2 addresses are leaked", "233 of 253 addresses of 10.244.1.0/24")
	h.must(os.Remove(filepath.Join(h.Store.RunDir, topology.IPAMDir, topology.Network, "10.244.1.2")))
	h.must(os.Remove(filepath.Join(h.Store.RunDir, topology.IPAMDir, topology.Network, "fd00:10:244:1::2")))
	finds(t, runCheck(t, "leases", h.look()), problem.Warning, "runs out of addresses", "232 of 253")
}

// crowd leases nearly all addresses to containers that are being made.
func (h *host) crowd() {
	for n := range 232 {
		file := filepath.Join(h.Store.RunDir, topology.IPAMDir, topology.Network, fmt.Sprintf("10.244.1.%d", n+3))
		h.must(os.WriteFile(file, fmt.Appendf(nil, "new%d\neth0", n), 0o600))
	}
}

// The Node was deleted and came back with another subnet, under running pods.
func TestPodsOfFormerSubnet(t *testing.T) {
	h := newHost(t)
	h.pod("old")
	for i, s := range prefixes(9) {
		h.Nodes[0].Spec.PodCIDRs[i] = s.String()
	}
	finds(t, runCheck(t, "old-subnet", h.look()), problem.Error, "10.244.1.2 is leased to container old", "the subnets are 10.244.9.0/24")
	found := runCheck(t, "bridge-address", h.Target)
	if len(found) != 4 { // two addresses too many, two too few
		t.Fatalf("found %+v", found)
	}
	finds(t, found[:1], problem.Error, "10.244.1.1/24 dev plainroute0")
	finds(t, found[2:3], problem.Error, "10.244.9.1/24 dev plainroute0 is missing")
	// The agent keeps the bridge for its pods, so the check does not suggest to change it.
	h.Report = &status.Report{Problems: []problem.Problem{{Reason: problem.SubnetChanged}}}
	if found := runCheck(t, "bridge-address", h.Target); len(found) > 0 {
		t.Errorf("while the agent waits for old pods: %+v", found)
	}
}

// Pods without leases are found among the bridge's neighbors.
func TestPodWithoutLease(t *testing.T) {
	h := newHost(t)
	h.pod("old")
	_, err := sendProbes(t.Context(), []probe{{netip.MustParseAddr("10.244.1.2"), smallSize}}, sweepTimeout)
	h.must(err)
	h.must(os.RemoveAll(filepath.Join(h.Store.RunDir, topology.IPAMDir)))
	h.Nodes[0].Spec.PodCIDRs = []string{"10.244.9.0/24"}
	finds(t, runCheck(t, "old-subnet", h.look()), problem.Error, "10.244.1.2 dev plainroute0 lladdr")
}

func TestBridgeLostItsAddress(t *testing.T) {
	h := newHost(t)
	h.pod("web")
	bridge, err := h.nl.LinkByName(topology.Bridge)
	h.must(err)
	gone, err := rtnl.ParseAddr("10.244.1.1/24")
	h.must(err)
	h.must(h.nl.AddrDel(bridge, gone))
	finds(t, runCheck(t, "bridge-address", h.look()), problem.Error, "10.244.1.1/24 dev plainroute0 is missing", "ip address add 10.244.1.1/24 dev plainroute0")
}

// The leases of a pod whose port is down or out of the bridge are not leaked.
func TestPodThatIsCutOff(t *testing.T) {
	h := newHost(t)
	h.pod("web")
	h.pod("db")
	port := h.firstPort()
	h.must(h.nl.LinkSetNoMaster(port))
	well(t, runCheck(t, "leases", h.look()))
	finds(t, runCheck(t, "bridge-address", h.Target), problem.Error, port.Attrs().Name+" leads to the pod 10.244.1.2",
		"ip link set dev "+port.Attrs().Name+" master plainroute0 up")
	bridge, err := h.nl.LinkByName(topology.Bridge)
	h.must(err)
	h.must(h.nl.LinkSetMaster(port, bridge))
	h.must(h.nl.LinkSetDown(port))
	well(t, runCheck(t, "leases", h.look()))
	finds(t, runCheck(t, "bridge-address", h.Target), problem.Error, port.Attrs().Name+" leads to the pod 10.244.1.2", "down")
	h.must(h.nl.LinkSetUp(port))
	h.must(h.nl.LinkSetDown(bridge))
	well(t, runCheck(t, "leases", h.look()))
	if found := runCheck(t, "bridge-address", h.Target); len(found) == 0 || !strings.Contains(found[0].Remediation, "ip link set dev plainroute0 up") {
		t.Errorf("of a bridge that is down: %+v", found)
	}
}

// A running pod that can't answer, because its port forwards nothing, keeps its lease: its address
// is in its network namespace. If no namespace shows it (gVisor), as many containers as there are
// ports may be running.
func TestPodWhosePortForwardsNothing(t *testing.T) {
	h := newHost(t)
	h.pod("mute")
	port := h.firstPort()
	h.pod("alive")
	set := func(state string) {
		t.Helper()
		if out, err := exec.CommandContext(t.Context(), "bridge", "link", "set", "dev", port.Attrs().Name, "state", state).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	for _, state := range []string{"disabled", "blocking"} {
		set(state)
		well(t, runCheck(t, "leases", h.look()))
	}
	h.pod("killed")()
	set("disabled") // a new port makes the bridge choose all states again
	found := runCheck(t, "leases", h.look())
	finds(t, found, problem.Warning, "2 addresses are leaked", "container killed", "grep -lr '^killed'")
	if strings.Contains(found[0].Remediation, "mute") {
		t.Errorf("the cure takes a live pod's address: %s", found[0].Remediation)
	}
	h.hide("mute")
	found = runCheck(t, "leases", h.look())
	finds(t, found, problem.Warning, "at least 1 containers are leaked: those of 2 containers do not answer", "1 ports of the bridge", "crictl pods")
	if strings.Contains(found[0].Remediation, " rm") {
		t.Errorf("the cure may take a live pod's address: %s", found[0].Remediation)
	}
}

// hide takes the addresses off a pod's device.
func (h *host) hide(pod string) {
	h.t.Helper()
	if out, err := exec.CommandContext(h.t.Context(), "ip", "-n", pod, "address", "flush", "dev", "eth0").CombinedOutput(); err != nil {
		h.t.Fatalf("%v: %s", err, out)
	}
}

// firstPort returns the port that the plugin made first.
func (h *host) firstPort() rtnl.Link {
	h.t.Helper()
	all, err := h.nl.LinkList()
	h.must(err)
	for _, l := range all {
		if strings.HasPrefix(l.Attrs().Name, "veth") && l.Attrs().MasterIndex != 0 {
			return l
		}
	}
	h.t.Fatal("no pod has a port")
	return nil
}

// A bridge that another network left, with our subnet on it.
func TestAnotherBridge(t *testing.T) {
	h := newHost(t)
	cni0 := &rtnl.Bridge{LinkAttrs: rtnl.LinkAttrs{Name: "cni0"}}
	h.must(h.nl.LinkAdd(cni0))
	t.Cleanup(func() { h.must(h.nl.LinkDel(cni0)) })
	addAddrs(t, h.nl, "cni0", "10.244.1.1/24")
	finds(t, runCheck(t, "bridge-address", h.look()), problem.Error, "10.244.1.1/24 dev cni0", "ip link del cni0")
}
