package doctor

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"
	rtnl "github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/plainroute/plainroute/pkg/cni"
	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/topology"
	"github.com/plainroute/plainroute/test/testutil"
)

// A remedyTestbed is a healthy node of both families with pods that the real stock plugins
// attached, and a peer with a pod beyond its uplink.
type remedyTestbed struct {
	*podTestbed
	plugins *libcni.CNIConfig
	conf    *libcni.NetworkConfigList
	pods    map[string]netns.NsHandle // by their IPv4 address
	files   string                    // the host's, where a fault is in them
}

func newClinic(t *testing.T) *remedyTestbed {
	t.Helper()
	dir := testutil.NeedPlugins(t)
	c := &remedyTestbed{podTestbed: &podTestbed{testbed: newDualTestbed(t)}, pods: map[string]netns.NsHandle{}}
	c.Root = "/" // where its commands run
	c.far = c.host("lan", peerAddr+"/24", farAddr+"/32", "192.168.1.11")
	config := topology.CNI{Bridge: topology.Bridge, MTU: podMTU, Subnets: c.Report.Host.Subnets, IPAMDir: filepath.Join(c.Store.RunDir, topology.IPAMDir)}
	text, err := cni.Render(config)
	c.must(err)
	c.conf, err = libcni.ConfListFromBytes(text)
	c.must(err)
	c.plugins = libcni.NewCNIConfigWithCacheDir([]string{dir}, t.TempDir(), nil)
	c.attach("one")
	c.attach("another")
	c.listenOn(c.far)
	c.look()
	return c
}

// attach attaches a pod, and makes its lease old enough for the check.
func (c *remedyTestbed) attach(id string) (addr string, detach func()) {
	c.t.Helper()
	home, err := netns.Get()
	c.must(err)
	defer home.Close()
	pod, err := netns.New() // and the thread is in it
	c.must(err)
	c.t.Cleanup(func() { pod.Close() })
	c.sh("ip link set lo up")
	c.must(netns.Set(home))
	runtime := &libcni.RuntimeConf{ContainerID: id, NetNS: fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), int(pod)), IfName: "eth0"}
	_, err = c.plugins.AddNetworkList(c.t.Context(), c.conf, runtime)
	c.must(err)
	leases, err := filepath.Glob(filepath.Join(c.leaseDir(), "*"))
	c.must(err)
	hour := time.Now().Add(-time.Hour)
	for _, file := range leases {
		content, err := os.ReadFile(file)
		c.must(err)
		if a, err := netip.ParseAddr(filepath.Base(file)); err == nil && a.Is4() && strings.HasPrefix(string(content), id) {
			addr = a.String()
		}
		c.must(os.Chtimes(file, hour, hour))
	}
	c.pods[addr] = pod
	c.listenOn(pod)
	return addr, func() { // a killed plugin leaves the lease without a device
		delete(c.pods, addr)
		c.in(pod, func() { c.sh("ip link del eth0") })
	}
}

func (c *remedyTestbed) leaseDir() string {
	return filepath.Join(c.Store.RunDir, topology.IPAMDir, topology.Network)
}

// serves fails the test unless all pods and the peer reach each other.
func (c *remedyTestbed) serves(when string) {
	c.t.Helper()
	for addr, pod := range c.pods {
		reach := func() bool {
			for other := range c.pods {
				if other != addr && !c.passes(pod, addr, other) {
					return false
				}
			}
			return c.passes(pod, addr, farAddr) && c.passes(pod, addr, peerAddr) && c.passes(c.far, farAddr, addr) && c.passes(c.far, peerAddr, addr)
		}
		for end := time.Now().Add(30 * time.Second); !reach(); time.Sleep(50 * time.Millisecond) { // a port that comes up learns
			if time.Now().After(end) {
				c.t.Fatalf("%s: the pod %s does not reach all, or is not reached", when, addr)
			}
		}
	}
}

// examine reads the kernel again and returns what one check finds.
func (c *remedyTestbed) examine(name string) []problem.Problem {
	c.t.Helper()
	c.look()
	i := slices.IndexFunc(Checks(), func(k Check) bool { return k.Name == name })
	return Checks()[i].Run(c.t.Context(), c.Target) // on this thread, whose namespace it is
}

// commands are the remediations' commands, which are in backquotes, in their order.
func commands(found []problem.Problem) []string {
	var all []string
	for _, f := range found {
		for _, m := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(f.Remediation, -1) {
			if !slices.Contains(all, m[1]) {
				all = append(all, m[1])
			}
		}
	}
	return all
}

// order runs a command as it is, with the files of the fault in place of the host's.
func (c *remedyTestbed) order(command string) error {
	if strings.HasPrefix(command, "crictl ") { // it only looks, and there is no container runtime here
		return nil
	}
	ctx, cancel := context.WithTimeout(c.t.Context(), time.Minute)
	defer cancel()
	stand := "mount --bind " + c.ProcSys + " /proc/sys; "
	if c.files != "" {
		stand += "mount --bind '" + c.files + "/etc' /etc; "
	}
	cmd := exec.CommandContext(ctx, "unshare", "-m", "sh", "-ec", stand+command)
	debian, err := filepath.Abs("../../bin/e2e/debian/usr")
	c.must(err)
	libraries, err := filepath.Glob(debian + "/lib/*-linux-gnu")
	c.must(err)
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":"+debian+"/sbin", "LD_LIBRARY_PATH="+strings.Join(libraries, ":"), "XTABLES_LIBDIR="+strings.Join(libraries, ":")+"/xtables", "XTABLES_LOCKFILE="+filepath.Join(c.t.TempDir(), "lock"))
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", command, err, out)
	}
	return nil
}

// A remedyCase is a fault on a healthy node, for which its check has commands.
type remedyCase struct {
	name  string
	fault func(*remedyTestbed)
}

// remedies has every check with commands in its remediation, and each fault that has commands of
// its own.
var remedies = map[string][]remedyCase{
	"forwarding": {
		{"on a device", func(c *remedyTestbed) { c.setting(topology.ConfSysctl(4, "eth0", "forwarding"), "0") }},
		{"in general", func(c *remedyTestbed) {
			c.setting(topology.SysctlForward4, "0")
			c.setting(topology.SysctlForward6, "0")
		}},
	},
	"bridge-netfilter": {
		{"off", func(c *remedyTestbed) {
			c.setting(topology.SysctlBridgeNF4, "0")
			c.setting(topology.SysctlBridgeNF6, "0")
		}},
	},
	"rp-filter": {{"strict", func(c *remedyTestbed) {
		c.add(&rtnl.Veth{LinkAttrs: rtnl.LinkAttrs{Name: "eth1"}, PeerName: "lan1"})
		c.sh("sysctl -qw net/ipv4/conf/all/rp_filter=0 net/ipv4/conf/eth0/rp_filter=1; ip addr add 192.168.2.11/24 dev eth1; ip route add 10.244.3.0/24 via 192.168.2.13 proto 112 metric 2301")
	}}},
	"forward-policy": {
		{"nftables", func(c *remedyTestbed) { debianProgram(c.t, "nft")(nftForward(""), "-f", "-") }},
		{"iptables-legacy", func(c *remedyTestbed) {
			debianProgram(c.t, "xtables-legacy-multi")("", "iptables", "-P", "FORWARD", "DROP")
		}},
		{"towards the world", func(c *remedyTestbed) {
			c.sh("ip route add default via " + peerAddr)
			debianProgram(c.t, "nft")("table ip fw { chain forward"+forwardHook+"drop; ip saddr { 10.244.0.0/16, 192.168.1.0/24 } ip daddr { 10.244.0.0/16, 192.168.1.0/24 } accept\n}\n}\n", "-f", "-")
		}},
	},
	"foreign-routes": {
		{"by a gateway", func(c *remedyTestbed) { c.sh("ip route add 10.244.2.0/25 via 192.168.1.99 proto 80") }},
		{"nowhere in our subnet", func(c *remedyTestbed) {
			c.sh("ip route add blackhole 10.244.1.0/26 proto 80; ip -6 route add prohibit fd00:10:244:1::/80; ip route add throw 10.244.1.64/26 metric 7; ip route add unreachable 10.244.1.128/26")
		}},
		{"by type of service", func(c *remedyTestbed) { c.sh("ip route add 10.244.2.0/24 via 192.168.1.99 tos 0x10") }},
		{"IPv6", func(c *remedyTestbed) { c.sh("ip -6 route add fd00:10:244:2::/80 via fd00:192:168:1::99 dev eth0") }},
	},
	"policy-rules": {
		{"from this node", func(c *remedyTestbed) {
			c.sh("ip route add default via 192.168.1.1 table 100; ip rule add from 192.168.1.11 lookup 100 priority 1000")
		}},
		{"to a peer, both families", func(c *remedyTestbed) {
			c.sh("ip route add default via 192.168.1.1 table 100; ip rule add from 10.244.1.0/24 lookup 100 priority 1000; ip -6 route add unreachable default table 100; ip -6 rule add from fd00:10:244:1::/64 lookup 100 priority 2")
		}},
	},
	"cni-configs": {{"two before ours", func(c *remedyTestbed) {
		for _, name := range []string{"00-a.conf", "05-b.conflist"} {
			c.write(filepath.Join(c.Store.ConfDir, name), "{}")
		}
	}}},
	"neighbor-limits": {
		{"full", func(c *remedyTestbed) { c.limits(4, 8) }},
		{"too low", func(c *remedyTestbed) { c.limits(64, 1024) }},
	},
	"conntrack": {{"full", func(c *remedyTestbed) {
		c.cover(map[string]string{conntrackCount: "65000", conntrackMax: "65536"})
	}}},
	"network-managers": {
		{"systemd-networkd", func(c *remedyTestbed) {
			c.has(map[string]string{runs: "", "/etc/systemd/network/99-default.network": "[Match]\nName=*\n[Network]\nDHCP=yes\n"})
		}},
		{"NetworkManager", func(c *remedyTestbed) {
			c.has(map[string]string{nmRuns: "", "/etc/NetworkManager/NetworkManager.conf": "[main]\n"})
		}},
		{"dhcpcd", func(c *remedyTestbed) {
			c.has(map[string]string{"/run/dhcpcd/pid": "7", dhcpcdConf: "hostname\ninterface eth0\nstatic routers=192.168.1.1\n"})
		}},
		{"dhcpcd without a config", func(c *remedyTestbed) { c.has(map[string]string{"/run/dhcpcd/pid": "7", dhcpcdConf: ""}) }},
	},
	"bridge-address": {
		{"bridge down", func(c *remedyTestbed) { c.sh("ip link set plainroute0 down") }},
		{"port down", func(c *remedyTestbed) { c.sh("ip link set " + c.ports()[0] + " down") }},
		{"port out of the bridge", func(c *remedyTestbed) { c.sh("ip link set " + c.ports()[0] + " nomaster") }},
		{"port that forwards nothing", func(c *remedyTestbed) { c.sh("bridge link set dev " + c.ports()[0] + " state 0") }},
		{"spanning tree", func(c *remedyTestbed) {
			port := c.ports()[0]
			c.sh("ip link set plainroute0 type bridge stp_state 1; ip link set " + port + " down; ip link set " + port + " up")
		}},
		{"ports isolated", func(c *remedyTestbed) {
			for _, port := range c.ports() {
				c.sh("bridge link set dev " + port + " isolated on")
			}
		}},
		{"a port without broadcasts", func(c *remedyTestbed) { c.sh("bridge link set dev " + c.ports()[0] + " bcast_flood off") }},
		{"a port without multicasts", func(c *remedyTestbed) { c.sh("bridge link set dev " + c.ports()[0] + " mcast_flood off") }},
		{"a port that is locked", func(c *remedyTestbed) { c.sh("bridge link set dev " + c.ports()[0] + " locked on") }},
		{"a port without hairpin", func(c *remedyTestbed) { c.sh("bridge link set dev " + c.ports()[0] + " hairpin off") }},
		{"gateways missing", func(c *remedyTestbed) { c.sh("ip addr flush dev plainroute0 scope global") }},
		{"an MTU of former pods", func(c *remedyTestbed) { c.sh("ip link set plainroute0 mtu 1300") }},
		{"another subnet's", func(c *remedyTestbed) { c.sh("ip addr add 10.99.0.1/24 dev plainroute0") }},
		{"left of flannel", func(c *remedyTestbed) {
			c.sh("ip link add cni0 type bridge; ip addr add 10.244.1.1/24 dev cni0; ip link set cni0 up")
		}},
	},
	"leases": {{"a killed plugin", func(c *remedyTestbed) {
		_, kill := c.attach("killed")
		kill()
	}}},
}

// prose has the checks without commands in their remediations, and why.
var prose = map[string]string{
	"agent":         "repeats the agent's remediations, most of them about Nodes and flags",
	"capabilities":  "what the agent may do is in its manifest",
	"cni-plugins":   "the init container of a new pod installs them",
	"leftovers":     "a node is drained and rebooted, step by step; running pods may be attached to what is left",
	"neighbors":     "another machine, cable or switch",
	"mac-addresses": "another machine's hypervisor",
	"path-mtu":      "a switch or tunnel between the nodes, or the agents' --mtu",
	"pod-packets":   "the cloud's or the hypervisor's settings",
	"duplicates":    "another machine, or a Node that an operator has to choose",
	"ports":         "a firewall between the nodes, or a program on another one",
	"node-ports":    "a firewall between the nodes",
	"clocks":        "an NTP client, of which each distribution has another",
	"old-subnet":    "pods that an operator has to choose are deleted by kubectl",
}

func TestEachRemedyIsTriedOrExplained(t *testing.T) {
	for _, c := range Checks() {
		if tried, explained := len(remedies[c.Name]) > 0, prose[c.Name] != ""; tried == explained {
			t.Errorf("%s: tried is %v and explained is %v, want one of them", c.Name, tried, explained)
		}
	}
	if len(remedies)+len(prose) != len(Checks()) {
		t.Errorf("%d checks are tried and %d explained, of %d", len(remedies), len(prose), len(Checks()))
	}
}

// Each command is run as it is on its fault, which it solves, and once more on the healthy node,
// where it changes nothing.
func TestRemedies(t *testing.T) {
	var all []string
	for check, faults := range remedies {
		for _, f := range faults {
			t.Run(check+"/"+f.name, func(t *testing.T) { all = append(all, f.try(t, check)...) })
		}
	}
	t.Run("all on a healthy node", func(t *testing.T) {
		c := newClinic(t)
		c.serves("at first")
		for _, command := range all {
			if err := c.order(command); err != nil {
				t.Logf("to no effect: %v", err)
			}
		}
		c.serves("after all cures")
		for check := range remedies {
			if found := c.examine(check); worstOf(found) == problem.Error || worstOf(found) == problem.Warning {
				t.Errorf("after all cures %s finds %+v", check, found)
			}
		}
	})
}

func (f remedyCase) try(t *testing.T, check string) []string {
	c := newClinic(t)
	c.serves("before the fault")
	f.fault(c)
	found := c.examine(check)
	all := commands(found)
	if worst := worstOf(found); worst != problem.Error && worst != problem.Warning || len(all) == 0 {
		t.Fatalf("the fault is %+v, with the commands %q", found, all)
	}
	for _, command := range all {
		if err := c.order(command); err != nil {
			t.Error(err)
		}
	}
	if found := c.examine(check); len(found) > 0 {
		t.Errorf("after %q there is still %+v", all, found)
	}
	c.serves("after the cure")
	c.attach("later") // which may get what was given back
	before := c.leases()
	for _, command := range all {
		_ = c.order(command) // there may be nothing left to do
	}
	c.serves("after the cure of what was well")
	if found := c.examine(check); len(found) > 0 {
		t.Errorf("the cure of what was well leaves %+v", found)
	}
	if after := c.leases(); !slices.Equal(after, before) {
		t.Errorf("the leases are %q, and were %q", after, before)
	}
	return all
}

// leases are the names of the files of pods' addresses.
func (c *remedyTestbed) leases() []string {
	c.t.Helper()
	entries, err := os.ReadDir(c.leaseDir())
	c.must(err)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// ports are the names of pods' ports.
func (c *remedyTestbed) ports() []string {
	c.t.Helper()
	links, err := c.nl.LinkList()
	c.must(err)
	var names []string
	for _, l := range links {
		if podPort.MatchString(l.Attrs().Name) {
			names = append(names, l.Attrs().Name)
		}
	}
	return names
}

// cover has files stand in for settings of the kernel that only the first namespace has, or the whole machine.
func (c *remedyTestbed) cover(settings map[string]string) {
	c.t.Helper()
	c.ProcSys = c.t.TempDir()
	for path, value := range settings {
		c.write(filepath.Join(c.ProcSys, path), value+"\n")
	}
}

// limits are those of both neighbor tables.
func (c *remedyTestbed) limits(soft, hard int) {
	c.cover(map[string]string{
		topology.NeighSysctl(4, 2): fmt.Sprint(soft), topology.NeighSysctl(4, 3): fmt.Sprint(hard),
		topology.NeighSysctl(6, 2): fmt.Sprint(soft), topology.NeighSysctl(6, 3): fmt.Sprint(hard),
	})
}

// has gives the host files, which commands see below /etc.
func (c *remedyTestbed) has(all map[string]string) {
	c.Root = files(c.t, all).Root
	c.files = c.Root
}
