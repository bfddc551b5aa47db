package dataplane

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	rtnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/plan"
	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/topology"
)

// A sandbox is the network namespace of a pod or of another machine.
type sandbox struct {
	nl *rtnl.Handle
	fd int
	do func(func() error) error // runs something inside
}

// newSandbox makes a network namespace that ends with the test.
func (m *machine) newSandbox() sandbox {
	m.t.Helper()
	work, done := make(chan func() error), make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		for f := range work {
			done <- f()
		}
	}()
	s := sandbox{do: func(f func() error) error {
		work <- f
		return <-done
	}}
	m.must(s.do(func() (err error) {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		if s.nl, err = rtnl.NewHandle(unix.NETLINK_ROUTE); err != nil {
			return err
		}
		s.fd, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		return err
	}))
	m.t.Cleanup(func() {
		s.nl.Close()
		m.must(unix.Close(s.fd))
		close(work)
	})
	return s
}

// addPod attaches a pod with leased addresses as the stock plugins do. The port is called
// like the pod.
func (m *machine) addPod(name string, addrs ...string) sandbox {
	m.t.Helper()
	addrs = m.known(addrs...)
	pod := m.addSandbox(name, addrs...)
	for _, a := range addrs {
		ip, _, err := net.ParseCIDR(a)
		m.must(err)
		m.leaseTo(ip.String(), name, name+"-eth0")
	}
	m.must(m.nl.LinkSetMaster(m.link(name), m.link(topology.Bridge)))
	m.must(m.nl.LinkSetHairpin(m.link(name), true))
	return pod
}

// addSandbox makes a network namespace, and a device that leads to it.
func (m *machine) addSandbox(name string, addrs ...string) sandbox {
	m.t.Helper()
	pod := m.newSandbox()
	m.must(m.nl.LinkAdd(&rtnl.Veth{LinkAttrs: rtnl.LinkAttrs{Name: name, MTU: 1500}, PeerName: name + "-eth0"}))
	m.must(m.nl.LinkSetNsFd(m.link(name+"-eth0"), pod.fd))
	m.up(name)
	eth0, err := pod.nl.LinkByName(name + "-eth0")
	m.must(err)
	m.must(pod.nl.LinkSetUp(eth0))
	for _, s := range m.known(addrs...) {
		a, err := rtnl.ParseAddr(s)
		m.must(err)
		a.Flags = unix.IFA_F_NODAD
		m.must(pod.nl.AddrAdd(eth0, a))
	}
	return pod
}

func (m *machine) master(name string) string {
	m.t.Helper()
	index := m.link(name).Attrs().MasterIndex
	if index == 0 {
		return ""
	}
	l, err := m.nl.LinkByIndex(index)
	m.must(err)
	return l.Attrs().Name
}

func (m *machine) isUp(name string) bool {
	m.t.Helper()
	return m.link(name).Attrs().Flags&net.FlagUp != 0
}

// attached fails the test if a port is not as the plugin left it.
func (m *machine) attached(name string) {
	m.t.Helper()
	info, err := m.nl.LinkGetProtinfo(m.link(name))
	m.must(err)
	if got := m.master(name); got != topology.Bridge || !m.isUp(name) || !info.Hairpin {
		m.t.Errorf("%s is in %q, up %t, hairpin %t", name, got, m.isUp(name), info.Hairpin)
	}
}

// The bridge is there before the first pod, with a MAC address that it will have again, and
// without IPv6 of the host's default for new devices.
func TestBridgeIsMadeOnceAndAgain(t *testing.T) {
	m := newMachine(t)
	m.needIPv6()
	m.sysctl("net/ipv6/conf/default/disable_ipv6", "1")
	m.sysctl("net/ipv6/conf/default/accept_ra", "1")
	m.settle(nodes(2))
	made := m.link(topology.Bridge).Attrs()
	if got := m.bridgeAddrs(); len(got) != 2 || !m.isUp(topology.Bridge) || made.MTU != 1500 {
		t.Errorf("the bridge has %v, up %t, MTU %d", got, m.isUp(topology.Bridge), made.MTU)
	}
	for path, want := range map[string]string{
		"default/disable_ipv6": "1", topology.Bridge + "/disable_ipv6": "0", topology.Bridge + "/accept_ra": "0", topology.Bridge + "/forwarding": "1", "eth0/disable_ipv6": "0",
	} {
		if got := m.readSysctl("net/ipv6/conf/" + path); got != want {
			t.Errorf("%s is %s, want %s", path, got, want)
		}
	}
	m.addPod("vethpod", "10.128.0.2/24", "fd01::2/64")
	m.settle(nodes(2))
	m.must(m.nl.LinkDel(m.link(topology.Bridge)))
	m.settle(nodes(2))
	m.attached("vethpod")
	again := m.link(topology.Bridge).Attrs()
	if again.HardwareAddr.String() != made.HardwareAddr.String() || again.Index == made.Index {
		t.Errorf("the bridge had MAC address %s, and has %s", made.HardwareAddr, again.HardwareAddr)
	}
}

// One pass makes it all: before the CNI config is written, the kernel is looked at again, and what
// is missing then is a fault.
func TestBridgeIsMadeInOnePass(t *testing.T) {
	m := newMachine(t)
	if m.ipv6 {
		m.sysctl("net/ipv6/conf/default/disable_ipv6", "1")
	}
	m.sysctl("net/ipv4/conf/default/forwarding", "0")
	c := m.diff(nodes(2))
	m.must(m.Apply(context.Background(), c.Except(plan.KindCNI)))
	if rest := m.diff(nodes(2)).Except(plan.KindCNI); !rest.Empty() {
		t.Errorf("left to do: %+v", rest)
	}
}

// The bridge's link-local address is there only once the kernel takes packets to it.
func TestLinkLocalAddressIsUsableAtOnce(t *testing.T) {
	m := newMachine(t)
	m.needIPv6()
	m.settle(nodes(2))
	for range 50 {
		ip := m.linkLocal(topology.Bridge)
		m.must(m.nl.AddrDel(m.link(topology.Bridge), &rtnl.Addr{IPNet: &net.IPNet{IP: ip, Mask: net.CIDRMask(64, 128)}}))
		m.fresh = freshness{}
		_, err := m.Observe(context.Background())
		m.must(err)
		bridge := m.links.devices(topology.Bridge)[0]
		bridge.LinkLocal = true
		m.must(m.setDevice(bridge))
		m.takesPackets(m.linkLocal(topology.Bridge))
	}
}

// linkLocal is a device's IPv6 link-local address.
func (m *machine) linkLocal(dev string) net.IP {
	m.t.Helper()
	addrs, err := m.nl.AddrList(m.link(dev), rtnl.FAMILY_V6)
	m.must(err)
	at := slices.IndexFunc(addrs, func(a rtnl.Addr) bool { return a.IP.IsLinkLocalUnicast() })
	if at < 0 {
		m.t.Fatalf("%s has no link-local address", dev)
	}
	return addrs[at].IP
}

// takesPackets checks that the kernel takes packets to an address of the bridge, as pods' answers.
func (m *machine) takesPackets(ip net.IP) {
	m.t.Helper()
	routes, err := m.nl.RouteGetWithOptions(ip, &rtnl.RouteGetOptions{OifIndex: m.link(topology.Bridge).Attrs().Index})
	m.must(err)
	if len(routes) != 1 || routes[0].Type != unix.RTN_LOCAL {
		m.t.Errorf("packets to %s are routed by %v", ip, routes)
	}
}

// A bridge that an operator made takes the lowest MAC address of its ports until it is given one.
func TestBridgeOfAnOperatorKeepsItsMAC(t *testing.T) {
	m := newMachine(t)
	m.must(m.nl.LinkAdd(&rtnl.Bridge{LinkAttrs: rtnl.LinkAttrs{Name: topology.Bridge}}))
	m.settle(nodes(2))
	mac := m.link(topology.Bridge).Attrs().HardwareAddr.String()
	m.addPod("vethpod", "10.128.0.2/24")
	m.must(m.nl.LinkSetHardwareAddr(m.link("vethpod"), net.HardwareAddr{0x02, 0, 0, 0, 0, 1}))
	if got := m.link(topology.Bridge).Attrs().HardwareAddr.String(); got != mac || !m.isUp(topology.Bridge) || len(m.bridgeAddrs()) != m.families() {
		t.Errorf("the bridge's MAC address was %s and is %s; up %t, addresses %v", mac, got, m.isUp(topology.Bridge), m.bridgeAddrs())
	}
}

// A bridge of an operator has the MAC address 0 once its last port has left, and is given one.
func TestBridgeOfAnOperatorThatLostItsMAC(t *testing.T) {
	m := newMachine(t)
	m.must(m.nl.LinkAdd(&rtnl.Bridge{LinkAttrs: rtnl.LinkAttrs{Name: topology.Bridge}}))
	m.must(m.nl.LinkAdd(&rtnl.Veth{LinkAttrs: rtnl.LinkAttrs{Name: "port"}, PeerName: "other"}))
	m.must(m.nl.LinkSetMaster(m.link("port"), m.link(topology.Bridge)))
	m.must(m.nl.LinkDel(m.link("port")))
	if mac := m.link(topology.Bridge).Attrs().HardwareAddr; len(mac) > 0 {
		t.Fatalf("its MAC address is %s", mac)
	}
	m.settle(nodes(2))
	if got, want := m.link(topology.Bridge).Attrs().HardwareAddr.String(), "0a:58"; !strings.HasPrefix(got, want) {
		t.Errorf("its MAC address is %s, want %s...", got, want)
	}
}

// bridgeDisturbances are what others do to the bridge and its ports.
var bridgeDisturbances = map[string]func(*machine){
	"bridge down":    func(m *machine) { m.must(m.nl.LinkSetDown(m.link(topology.Bridge))) },
	"port taken out": func(m *machine) { m.must(m.nl.LinkSetNoMaster(m.link("vethpod"))) },
	"port down":      func(m *machine) { m.must(m.nl.LinkSetDown(m.link("vethpod"))) },
	"bridge deleted": func(m *machine) { m.must(m.nl.LinkDel(m.link(topology.Bridge))) },
	"addresses flushed": func(m *machine) {
		addrs, err := m.nl.AddrList(m.link(topology.Bridge), rtnl.FAMILY_ALL)
		m.must(err)
		for _, a := range addrs {
			m.must(m.nl.AddrDel(m.link(topology.Bridge), &a))
		}
	},
	"link-local address deleted": func(m *machine) {
		m.needIPv6()
		addrs, err := m.nl.AddrList(m.link(topology.Bridge), rtnl.FAMILY_V6)
		m.must(err)
		for _, a := range addrs {
			if a.IP.IsLinkLocalUnicast() {
				m.must(m.nl.AddrDel(m.link(topology.Bridge), &a))
			}
		}
	},
	"gateway with another length": func(m *machine) {
		m.needIPv6()
		a, err := rtnl.ParseAddr("fd01::1/64")
		m.must(err)
		m.must(m.nl.AddrDel(m.link(topology.Bridge), a))
		m.addr(topology.Bridge, "fd01::1/128")
	},
	"MTU too small for IPv6": func(m *machine) { m.needIPv6(); m.must(m.nl.LinkSetMTU(m.link(topology.Bridge), 1200)) },
	"ARP off":                func(m *machine) { m.must(m.nl.LinkSetARPOff(m.link(topology.Bridge))) },
	"IPv6 off": func(m *machine) {
		m.needIPv6()
		m.sysctl("net/ipv6/conf/"+topology.Bridge+"/disable_ipv6", "1")
	},
	"IPv6 off and on, so that the kernel gives it a link-local address that is still checked": func(m *machine) {
		m.needIPv6()
		m.sysctl("net/ipv6/conf/"+topology.Bridge+"/disable_ipv6", "1")
		m.sysctl("net/ipv6/conf/"+topology.Bridge+"/disable_ipv6", "0")
	},
}

// Each disturbance of the bridge and its ports is announced, and mended by the next pass.
func TestBridgeDisturbances(t *testing.T) {
	for name, disturb := range bridgeDisturbances {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			m.settle(nodes(2))
			made := m.link(topology.Bridge).Attrs()
			m.addPod("vethpod", "10.128.0.2/24", "fd01::2/64")
			news := m.watchSettled(nodes(2))
			disturb(m)
			for found := false; !found; {
				m.expect(news, name)
				found = !m.pass(nodes(2)).Empty()
			}
			m.settle(nodes(2))
			now := m.link(topology.Bridge).Attrs()
			if now.HardwareAddr.String() != made.HardwareAddr.String() || now.MTU != made.MTU || now.RawFlags&unix.IFF_NOARP != 0 {
				t.Errorf("the bridge has MAC address %s, MTU %d, flags %#x; it had %s, %d", now.HardwareAddr, now.MTU, now.RawFlags, made.HardwareAddr, made.MTU)
			}
			m.attached("vethpod")
			locals, err := m.nl.AddrList(m.link(topology.Bridge), rtnl.FAMILY_V6)
			m.must(err)
			if m.ipv6 && !slices.ContainsFunc(locals, func(a rtnl.Addr) bool {
				return a.IP.IsLinkLocalUnicast() && a.Flags&unix.IFA_F_TENTATIVE == 0
			}) {
				t.Errorf("the bridge has no usable link-local address: %v", locals)
			}
			if got := m.bridgeAddrs(); len(got) != m.families() || !m.isUp(topology.Bridge) {
				t.Errorf("the bridge has %v, up %t", got, m.isUp(topology.Bridge))
			}
		})
	}
}

// After a restart of the agent a pod's port is known by its lease. Foreign and unidentified ports
// are left alone.
func TestOnlyPortsOfOurPodsArePutBack(t *testing.T) {
	m := newMachine(t)
	m.settle(nodes(2))
	m.addPod("vethpod", "10.128.0.2/24")
	m.addPod("vethleft", "10.128.0.3/24")
	m.addSandbox("vethother", "10.128.0.4/24")  // inside our subnet, without a lease
	m.addSandbox("vethdocker", "172.17.0.2/16") // another network's
	m.addSandbox("vethempty")                   // a pod in the making
	m.addVeth("vethhere", 1500)                 // both ends are here
	m.addr("vethhere-peer", "10.128.0.2/32")    // even with a pod's address
	m.must(m.nl.LinkAdd(&rtnl.Bridge{LinkAttrs: rtnl.LinkAttrs{Name: "br-lan"}}))
	m.must(m.nl.LinkSetNoMaster(m.link("vethpod")))
	m.must(m.nl.LinkSetMaster(m.link("vethleft"), m.link("br-lan")))
	m.must(m.nl.LinkSetDown(m.link("vethother")))
	m.must(m.Close())
	var err error
	m.Kernel, err = New(m.cfg)
	m.must(err)
	m.settleOwnFault(nodes(2), problem.BridgeFailed)
	m.attached("vethpod")
	for name, want := range map[string]string{"vethleft": "br-lan", "vethother": "", "vethdocker": "", "vethempty": "", "vethhere": ""} {
		if got := m.master(name); got != want {
			t.Errorf("%s is in %q, want %q", name, got, want)
		}
	}
	if m.isUp("vethother") {
		t.Error("a port of others was set up")
	}
	host, err := m.Facts(context.Background(), nil)
	m.must(err)
	if host.Ports != 2 {
		t.Errorf("%d ports of pods, want 2", host.Ports)
	}
	problems := m.problems(nodes(2))
	if len(problems) != 1 || problems[0].BlocksReady || !strings.Contains(problems[0].Message, "vethleft leads to a container with the address 10.128.0.3, which a pod leased, and is in br-lan") {
		t.Errorf("problems: %v", problems)
	}
}

func (m *machine) observed() topology.State {
	m.t.Helper()
	s, err := m.Observe(context.Background())
	m.must(err)
	return s
}

// A port that was put elsewhere is a Problem until it is back, or its pod has gone.
func TestAPortElsewhereIsFollowed(t *testing.T) {
	m := newMachine(t)
	m.settle(nodes(2))
	m.addPod("vethpod", "10.128.0.2/24")
	m.must(m.nl.LinkAdd(&rtnl.Bridge{LinkAttrs: rtnl.LinkAttrs{Name: "br-lan"}}))
	news := m.watchSettled(nodes(2))
	m.must(m.nl.LinkSetMaster(m.link("vethpod"), m.link("br-lan")))
	m.expect(news, "a port that is moved")
	m.settleOwnFault(nodes(2), problem.BridgeFailed)
	if problems := m.problems(nodes(2)); len(problems) != 1 || !problems[0].BlocksReady {
		t.Errorf("of a port that was seen in the bridge: %v", problems)
	}
	drain(news, shortly)
	m.settleOwnFault(nodes(2), problem.BridgeFailed)
	m.must(m.nl.LinkSetNoMaster(m.link("vethpod")))
	m.expect(news, "a port that is let go")
	m.settle(nodes(2))
	m.attached("vethpod")
	drain(news, shortly)
	m.settle(nodes(2))
	m.must(m.nl.LinkSetMaster(m.link("vethpod"), m.link("br-lan")))
	m.expect(news, "a port that is moved again")
	drain(news, shortly)
	m.settleOwnFault(nodes(2), problem.BridgeFailed)
	m.must(m.nl.LinkDel(m.link("vethpod")))
	m.expect(news, "the end of a pod whose port was moved")
	m.settle(nodes(2))
}

// The ports of pods that come and go make nothing stale, whether the plugin deletes them or the
// kernel with the namespace.
func TestPodsOfTheirOwnNamespacesAreIgnored(t *testing.T) {
	m := newMachine(t)
	m.settle(nodes(2))
	m.addPod("vethfirst", "10.128.0.2/24", "fd01::2/64")
	news := m.watchSettled(nodes(2))
	for _, end := range []string{"by the plugin", "from inside"} {
		pod := m.addPod("vethpod", "10.128.0.3/24", "fd01::3/64")
		m.quiet(news, "a pod that comes")
		m.must(os.Remove(filepath.Join(m.dir, "run", topology.IPAMDir, topology.Network, "10.128.0.3")))
		if end == "by the plugin" {
			m.must(m.nl.LinkDel(m.link("vethpod")))
		} else {
			eth0, err := pod.nl.LinkByName("vethpod-eth0")
			m.must(err)
			m.must(pod.nl.LinkDel(eth0))
		}
		m.quiet(news, "a pod that goes, deleted "+end)
	}
}

// A device of the bridge's name and another kind is never changed.
func TestAnotherDeviceOfTheBridgesName(t *testing.T) {
	m := newMachine(t)
	m.must(m.nl.LinkAdd(&rtnl.Veth{LinkAttrs: rtnl.LinkAttrs{Name: topology.Bridge, MTU: 1500}, PeerName: "other"}))
	m.settleOwnFault(nodes(2), problem.BridgeFailed)
	if l := m.link(topology.Bridge); l.Type() != "veth" || m.isUp(topology.Bridge) || len(m.bridgeAddrs()) > 0 || m.Config() != nil {
		t.Errorf("it is a %s, up %t, with %v; the config is %v", l.Type(), m.isUp(topology.Bridge), m.bridgeAddrs(), m.Config())
	}
	news := m.watch()
	drain(news, shortly)
	m.must(m.nl.LinkDel(m.link(topology.Bridge)))
	m.expect(news, "the way being free")
	m.settle(nodes(2))
}

// A bridge that was renamed still serves its pods. That is reported once, by the new name, and
// no bridge is made beside it. With its old name all is as it was.
func TestRenamedBridgeIsReported(t *testing.T) {
	for name, families := range map[string]int{"dual-stack": 2, "IPv6 alone, of which the gateway goes with it": 1} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			all := nodes(2)
			for _, n := range all {
				n.PodCIDRs = n.PodCIDRs[2-families:]
			}
			m.needIPv6()
			m.settle(all)
			m.addPod("vethpod", []string{"10.128.0.2/24", "fd01::2/64"}[2-families:]...)
			m.settle(all)
			news := m.watchSettled(all)
			rename := func(from, to string) {
				m.must(m.nl.LinkSetDown(m.link(from)))
				m.must(m.nl.LinkSetName(m.link(from), to))
				m.up(to)
			}
			rename(topology.Bridge, "br-old")
			m.expect(news, "a bridge that is renamed")
			m.settleOwnFault(all, problem.BridgeFailed)
			if problems := m.problems(all); len(problems) != 1 || !strings.Contains(problems[0].Message, "ip link set dev br-old name "+topology.Bridge) {
				t.Errorf("got %v", problems)
			}
			if _, err := m.nl.LinkByName(topology.Bridge); err == nil || m.master("vethpod") != "br-old" || m.Config() == nil {
				t.Errorf("another bridge is there: %v; the port is in %s; the config is %v", err, m.master("vethpod"), m.Config())
			}
			drain(news, shortly)
			rename("br-old", topology.Bridge)
			m.expect(news, "a bridge that has its name again")
			m.settle(all)
			m.attached("vethpod")
			if got := m.bridgeAddrs(); len(got) != families {
				t.Errorf("the bridge has %v", got)
			}
		})
	}
}

// A cleanup leaves the bridge while a pod's port is only out of it.
func TestBridgeOfAPodWhosePortIsOutIsNotDeleted(t *testing.T) {
	m := newMachine(t)
	m.settle(nodes(2))
	m.addPod("vethpod", "10.128.0.2/24")
	m.must(m.nl.LinkSetNoMaster(m.link("vethpod")))
	if err := m.Apply(context.Background(), plan.Of(plan.Delete, bridge(topology.Bridge))); err == nil {
		t.Error("the bridge is deleted")
	}
	m.link(topology.Bridge)
}
