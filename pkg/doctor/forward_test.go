package doctor

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	rtnl "github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/topology"
)

// A podTestbed is a testbed with two pods on its bridge, and beyond its uplink a peer, a pod of the
// peer's and the outside:
//
//	pod 10.244.1.7 === bridge | node1 | eth0 === far 192.168.1.12, 10.244.2.9, 11.0.0.1
//	two 10.244.1.8 ======|
type podTestbed struct {
	*testbed
	pod, two, far netns.NsHandle
	port          int
}

const (
	podAddr   = "10.244.1.7"
	twoAddr   = "10.244.1.8"
	farAddr   = "10.244.2.9"
	peerAddr  = "192.168.1.12"
	worldAddr = "11.0.0.1"
)

func newPassage(t *testing.T) *podTestbed {
	t.Helper()
	p := &podTestbed{testbed: newTestbed(t)}
	for _, name := range []string{"pod", "two"} {
		p.add(&rtnl.Veth{LinkAttrs: rtnl.LinkAttrs{Name: "veth" + name}, PeerName: name + "0"})
		bridge, err := p.nl.LinkByName(topology.Bridge)
		p.must(err)
		port, err := p.nl.LinkByName("veth" + name)
		p.must(err)
		p.must(p.nl.LinkSetMaster(port, bridge))
	}
	p.pod = p.host("pod0", podAddr+"/24", "", "10.244.1.1")
	p.two = p.host("two0", twoAddr+"/24", "", "10.244.1.1")
	p.far = p.host("lan", peerAddr+"/24", farAddr+"/32 "+worldAddr+"/32", "192.168.1.11")
	p.listen()
	p.lease()
	return p
}

// lease adds the pod's lease.
func (p *podTestbed) lease() {
	p.t.Helper()
	p.write(filepath.Join(p.Store.RunDir, topology.IPAMDir, topology.Network, podAddr), "container")
}

// host moves a device into a namespace of its own, with addresses and a default route.
func (p *podTestbed) host(dev, addr, more, gateway string) netns.NsHandle {
	p.t.Helper()
	home, err := netns.Get()
	p.must(err)
	defer home.Close()
	host, err := netns.New() // and the thread is in it
	p.must(err)
	p.t.Cleanup(func() { host.Close() })
	nl, err := rtnl.NewHandle()
	p.must(err)
	defer nl.Close()
	p.must(netns.Set(home))
	link, err := p.nl.LinkByName(dev)
	p.must(err)
	p.must(p.nl.LinkSetNsFd(link, int(host)))
	link, err = nl.LinkByName(dev)
	p.must(err)
	for _, a := range strings.Fields(addr + " " + more) {
		parsed, err := rtnl.ParseAddr(a)
		p.must(err)
		p.must(nl.AddrAdd(link, parsed))
	}
	p.must(nl.LinkSetUp(link))
	p.must(nl.RouteAdd(&rtnl.Route{Gw: net.ParseIP(gateway), LinkIndex: link.Attrs().Index}))
	return host
}

// in runs a function in a namespace. Sockets made there stay there.
func (p *podTestbed) in(host netns.NsHandle, do func()) {
	p.t.Helper()
	home, err := netns.Get()
	p.must(err)
	defer home.Close()
	p.must(netns.Set(host))
	do()
	p.must(netns.Set(home))
}

func (p *podTestbed) listen() {
	for _, host := range []netns.NsHandle{p.pod, p.two, p.far} {
		p.listenOn(host)
	}
}

// listenOn has a host accept connections, at one port on all of them.
func (p *podTestbed) listenOn(host netns.NsHandle) {
	p.t.Helper()
	p.in(host, func() {
		l, err := net.Listen("tcp4", fmt.Sprintf(":%d", p.port))
		p.must(err)
		p.t.Cleanup(func() { l.Close() })
		p.port = l.Addr().(*net.TCPAddr).Port
		echo, err := net.ListenPacket("udp4", fmt.Sprintf(":%d", p.port))
		p.must(err)
		p.t.Cleanup(func() { echo.Close() })
		go func() {
			b := make([]byte, 16)
			for {
				n, from, err := echo.ReadFrom(b)
				if err != nil {
					return
				}
				_, _ = echo.WriteTo(b[:n], from) // lost where a firewall drops it
			}
		}()
	})
}

// passes reports whether a connection is established, which needs both directions.
func (p *podTestbed) passes(from netns.NsHandle, source, to string) bool {
	var err error
	p.in(from, func() {
		var c net.Conn
		d := net.Dialer{Timeout: 300 * time.Millisecond, LocalAddr: &net.TCPAddr{IP: net.ParseIP(source)}}
		if c, err = d.DialContext(p.t.Context(), "tcp4", fmt.Sprintf("%s:%d", to, p.port)); err == nil {
			c.Close()
		}
	})
	return err == nil
}

// echoes reports whether a datagram is answered.
func (p *podTestbed) echoes(from netns.NsHandle, source, to string) bool {
	var err error
	p.in(from, func() {
		var c net.Conn
		d := net.Dialer{LocalAddr: &net.UDPAddr{IP: net.ParseIP(source)}}
		if c, err = d.DialContext(p.t.Context(), "udp4", fmt.Sprintf("%s:%d", to, p.port)); err != nil {
			return
		}
		defer c.Close()
		p.must(c.SetDeadline(time.Now().Add(300 * time.Millisecond)))
		if _, err = c.Write([]byte("ping")); err == nil {
			_, err = c.Read(make([]byte, 16))
		}
	})
	return err == nil
}

// allPass reports whether every connection of the cluster comes about.
func (p *podTestbed) allPass() bool {
	return p.passes(p.pod, podAddr, farAddr) && p.passes(p.far, farAddr, podAddr) && p.passes(p.pod, podAddr, peerAddr) &&
		p.passes(p.far, peerAddr, podAddr) && p.passes(p.pod, podAddr, twoAddr) &&
		p.echoes(p.pod, podAddr, peerAddr) && p.echoes(p.far, peerAddr, podAddr) && p.echoes(p.pod, podAddr, twoAddr)
}

// The result is compared with the kernel's behavior: without a problem both pods reach each other,
// and with an error one does not.
func TestForwardPolicyAgainstTraffic(t *testing.T) {
	newPassage(t).compare(func(t *testing.T, rules string) {
		nft := debianProgram(t, "nft")
		nft("", "flush", "ruleset")
		if strings.HasPrefix(rules, "*filter") {
			debianProgram(t, "xtables-nft-multi")(rules, "iptables-restore")
			return
		}
		nft(rules, "-f", "-")
	}, "")
}

// The same rules in the tables of iptables-legacy.
func TestForwardPolicyOfLegacyAgainstTraffic(t *testing.T) {
	newPassage(t).compare(func(t *testing.T, rules string) {
		debianProgram(t, "xtables-legacy-multi")(rules, "iptables-restore")
	}, "*filter")
}

// compare loads each ruleset that begins so.
func (p *podTestbed) compare(load func(t *testing.T, rules string), prefix string) {
	test := p.t
	test.Helper()
	for tries := 0; !p.allPass(); tries++ {
		if tries == 20 { // devices that were just set up take a moment
			test.Fatal("the pods do not reach each other without a firewall")
		}
	}
	home, err := netns.Get()
	p.must(err)
	defer home.Close()
	defer func() { p.t = test }() // cleanups are of this test
	for name, c := range forwardCases {
		if !strings.HasPrefix(c.rules, prefix) {
			continue
		}
		test.Run(name, func(t *testing.T) {
			p.t = t
			runtime.LockOSThread() // and the thread ends with the test
			p.must(netns.Set(home))
			load(t, c.rules+"\n")
			f := p.finds("forward-policy", c.want)
			if all := p.allPass(); c.want == problem.None && !all || c.want == problem.Error && all {
				t.Errorf("that all reach each other is %v, and the check found %+v", all, f)
			}
			if !strings.Contains(f.Evidence, c.message) {
				t.Errorf("the evidence lacks %q: %+v", c.message, f)
			}
		})
	}
}

func TestForwardPolicyOfIPv6(t *testing.T) {
	w := newTestbed(t)
	w.Report.Host.Subnets = []netip.Prefix{netip.MustParsePrefix("fd00:10:244:1::/64")}
	w.State.Routes = []*topology.Route{{Dst: netip.MustParsePrefix("fd00:10:244:2::/64"), Dev: "eth0", Metric: topology.PeerMetric(netip.MustParsePrefix("fd00:10:244:2::/64"))}}
	rules := func(chain, more string) string { return "*filter\n:FORWARD " + chain + "\n" + more + "COMMIT\n" }
	const both = "-A FORWARD -s fd00:10:244:1::/64 -i plainroute0 -j ACCEPT\n-A FORWARD -d fd00:10:244:1::/64 -m conntrack --ctstate NEW,ESTABLISHED -j ACCEPT\n"
	for _, program := range []string{"xtables-nft-multi", "xtables-legacy-multi"} {
		load := debianProgram(t, program)
		load(rules("DROP", both), "ip6tables-restore")
		w.finds("forward-policy", problem.None)
		load(rules("DROP", "-A FORWARD -s fd00:10:244:1::/64 -j ACCEPT\n"), "ip6tables-restore")
		w.finds("forward-policy", problem.Error)
		load(rules("ACCEPT", both+"-A FORWARD -j REJECT\n"), "ip6tables-restore")
		w.finds("forward-policy", problem.None)
		load(rules("ACCEPT", "-A FORWARD -s fd00:10:96::/48 -j ACCEPT\n-A FORWARD -j REJECT\n"), "ip6tables-restore")
		w.finds("forward-policy", problem.Error)
		load(rules("ACCEPT", ""), "ip6tables-restore")
	}
}

// debianProgram runs a program of this machine, or of the tests' cluster of kubelets.
func debianProgram(t *testing.T, name string) func(stdin string, args ...string) {
	t.Helper()
	const debian = "../../bin/e2e/debian/usr/"
	libraries := debian + "lib/" + map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[runtime.GOARCH] + "-linux-gnu"
	var env []string
	program, err := exec.LookPath(name)
	if err != nil {
		program, err = exec.LookPath(debian + "sbin/" + name)
		env = []string{"LD_LIBRARY_PATH=" + libraries, "XTABLES_LIBDIR=" + libraries + "/xtables"}
	}
	if err != nil {
		t.Skipf("%s is neither on this machine (apt-get install nftables iptables) nor in bin/e2e (make e2e-assets): %v", name, err)
	}
	env = append(env, "XTABLES_LOCKFILE="+filepath.Join(t.TempDir(), "lock"))
	return func(stdin string, args ...string) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), program, args...)
		cmd.Env, cmd.Stdin = append(os.Environ(), env...), strings.NewReader(stdin)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s %v: %v\n%s\n%s", name, args, err, out, stdin)
		}
	}
}

// A firewall may drop packets between pods and the outside on purpose, so that is a warning. It is
// compared with the kernel's behavior.
func TestForwardPolicyToOutside(t *testing.T) {
	p := newPassage(t)
	nft := debianProgram(t, "nft")
	p.sh("ip route add default via " + peerAddr)
	p.look()
	both := func() bool { return p.passes(p.pod, podAddr, worldAddr) && p.passes(p.far, worldAddr, podAddr) }
	for tries := 0; !both() || !p.allPass(); tries++ {
		if tries == 20 {
			t.Fatal("the pod and the world do not reach each other without a firewall")
		}
	}
	p.finds("forward-policy", problem.None)
	const cluster = "ip saddr { 10.244.0.0/16, 192.168.1.0/24 } ip daddr { 10.244.0.0/16, 192.168.1.0/24 } accept; "
	for name, c := range map[string]forwardCase{
		"all of it":   {nftForward(cluster), problem.Warning, "from 10.244.1.7 (plainroute0) to 11.0.0.1 (eth0), new"},
		"what begins": {nftForward(cluster + "ct state established accept; ip saddr 10.244.1.0/24 accept"), problem.Warning, "from 11.0.0.1 (eth0) to 10.244.1.7 (plainroute0), new"},
		"answers":     {nftForward(cluster + "ip saddr 10.244.1.0/24 accept"), problem.Warning, "from 11.0.0.1 (eth0) to 10.244.1.7 (plainroute0), answer"},
		"nothing":     {nftForward("ip saddr 10.244.1.0/24 accept; ip daddr 10.244.1.0/24 accept"), problem.None, ""},
		"some ports":  {nftForward(cluster + "ip saddr 10.244.1.0/24 accept; ct state established accept; tcp dport 443 accept"), problem.None, ""},
	} {
		nft("", "flush", "ruleset")
		nft(c.rules, "-f", "-")
		if f := p.finds("forward-policy", c.want); !strings.Contains(f.Evidence, c.message) {
			t.Errorf("%s: the evidence lacks %q: %+v", name, c.message, f)
		}
		if pass := both(); c.want == problem.Warning && pass || name == "nothing" && !pass {
			t.Errorf("%s: that both reach each other is %v", name, pass)
		}
	}
}
