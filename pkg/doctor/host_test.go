package doctor

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	rtnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/status"
	"github.com/plainroute/plainroute/pkg/topology"
)

// A healthy node has no problems.
func TestHealthy(t *testing.T) {
	w := newTestbed(t)
	for _, name := range []string{"capabilities", "forwarding", "rp-filter", "bridge-netfilter", "forward-policy", "foreign-routes", "policy-rules", "cni-configs", "cni-plugins", "leftovers"} {
		w.finds(name, problem.None)
	}
}

func TestCapabilities(t *testing.T) {
	w := newTestbed(t)
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	w.must(unix.Capget(&header, &data[0]))
	data[0].Effective &^= 1 << netAdmin
	w.must(unix.Capset(&header, &data[0])) // of this thread, which ends with the test
	f := w.finds("capabilities", problem.Error)
	data[0].Effective |= 1 << netAdmin
	w.must(unix.Capset(&header, &data[0]))
	if !strings.Contains(f.Evidence, "CAP_NET_ADMIN") {
		t.Errorf("found %+v", f)
	}
}

func TestForwarding(t *testing.T) {
	w := newTestbed(t)
	w.setting(topology.ConfSysctl(4, "eth0", "forwarding"), "0")
	if f := w.finds("forwarding", problem.Error); !strings.Contains(f.Evidence, "eth0") {
		t.Errorf("found %+v", f)
	}
	w.setting(topology.SysctlForward4, "0")
	w.finds("forwarding", problem.Error)
}

func TestBridgeNetfilter(t *testing.T) {
	w := newTestbed(t)
	w.setting(topology.SysctlBridgeNF4, "0")
	w.finds("bridge-netfilter", problem.Error)
	w.ProcSys = t.TempDir() // that of a kernel without the module
	if f := w.finds("bridge-netfilter", problem.Error); !strings.Contains(f.Remediation, "modprobe") {
		t.Errorf("found %+v", f)
	}
}

// A chain that drops what no rule accepts, as Docker's and iptables-nft's are.
func TestForwardPolicy(t *testing.T) {
	w := newTestbed(t)
	nft, err := nftables.New()
	w.must(err)
	table := nft.AddTable(&nftables.Table{Name: "filter", Family: nftables.TableFamilyIPv4})
	drop := nftables.ChainPolicyDrop
	nft.AddChain(&nftables.Chain{
		Name: "FORWARD", Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookForward,
		Priority: nftables.ChainPriorityFilter, Policy: &drop,
	})
	w.must(nft.Flush())
	f := w.finds("forward-policy", problem.Error)
	if !strings.Contains(f.Remediation, "nft insert rule ip filter FORWARD ip saddr 10.244.1.0/24 accept") {
		t.Errorf("the cure is %q", f.Remediation)
	}
	nft.DelTable(table)
	w.must(nft.Flush())
	w.finds("forward-policy", problem.None)
}

// Without a known peer, as on a cluster's first node, a rule about the addresses of Services, such
// as kube-proxy's, is not a problem.
func TestForwardPolicyWithoutPeers(t *testing.T) {
	w := newTestbed(t)
	nft, err := nftables.New()
	w.must(err)
	table := nft.AddTable(&nftables.Table{Name: "kube-proxy", Family: nftables.TableFamilyIPv4})
	chain := nft.AddChain(&nftables.Chain{
		Name: "filter-forward", Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter,
	})
	const destination, length = 16, 4 // in IPv4's header
	nft.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: destination, Len: length},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{10, 96, 0, 1}},
		&expr.Verdict{Kind: expr.VerdictDrop},
	}})
	w.must(nft.Flush())
	w.finds("forward-policy", problem.None)
	w.State.Routes = nil
	w.finds("forward-policy", problem.None)
	w.Report = nil
	w.finds("forward-policy", problem.None)
	nft.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}}})
	w.must(nft.Flush())
	w.finds("forward-policy", problem.Error)
}

func TestForeignRoutes(t *testing.T) {
	w := newTestbed(t)
	w.route("10.244.2.128/25", "192.168.1.1", 3, 0)
	w.look()
	if f := w.finds("foreign-routes", problem.Error); !strings.Contains(f.Evidence, "10.244.2.128/25 via 192.168.1.1") {
		t.Errorf("found %+v", f)
	}
}

// A route that belongs to an address must not be deleted, and of thousands of routes only a few are
// reported.
func TestForeignRoutesOfKernelAndMany(t *testing.T) {
	own := topology.Route{Type: topology.Unicast, Dst: netip.MustParsePrefix("10.244.0.0/16"), Dev: "eth0", Protocol: topology.Protocol}
	p := &Target{}
	p.State.Routes = []*topology.Route{&own}
	lan := topology.Route{Type: topology.Unicast, Dst: netip.MustParsePrefix("10.244.2.0/24"), Dev: "eth0", Protocol: kernelMade}
	p.Host.Routes = []topology.Route{lan}
	found := runCheck(t, "foreign-routes", p)
	if len(found) != 1 || strings.Contains(found[0].Remediation, "ip route del") || !strings.Contains(found[0].Remediation, "an address of eth0") {
		t.Errorf("found %+v", found)
	}
	lan.Protocol = 0
	for range 5000 {
		p.Host.Routes = append(p.Host.Routes, lan)
	}
	found = runCheck(t, "foreign-routes", p)
	if last := found[len(found)-1]; len(found) != maxProblems+1 || !strings.HasPrefix(last.Message, "and 4993 more foreign routes") {
		t.Errorf("%d findings, the last is %+v", len(found), last)
	}
}

// A rule that selects another table, as VPNs and cloud agents add them.
func TestPolicyRules(t *testing.T) {
	w := newTestbed(t)
	link, err := w.nl.LinkByName("eth0")
	w.must(err)
	everything, err := rtnl.ParseIPNet("0.0.0.0/0")
	w.must(err)
	w.must(w.nl.RouteAdd(&rtnl.Route{Dst: everything, Gw: net.IPv4(192, 168, 1, 1), LinkIndex: link.Attrs().Index, Table: 100}))
	rule := rtnl.NewRule()
	rule.Family, rule.Table, rule.Priority, rule.Src = unix.AF_INET, 100, 50, everything
	w.must(w.nl.RuleAdd(rule))
	if f := w.finds("policy-rules", problem.Error); !strings.Contains(f.Evidence, "routed via 192.168.1.1 dev eth0") {
		t.Errorf("found %+v", f)
	}
	w.must(w.nl.RuleDel(rule))
	w.must(w.nl.RouteAdd(&rtnl.Route{Dst: everything, Type: unix.RTN_PROHIBIT, Table: 101}))
	rule.Table = 101
	w.must(w.nl.RuleAdd(rule))
	w.finds("policy-rules", problem.Error)
}

// A rule for one kind of packet: each direction of each family is looked up.
func TestPolicyRulesOfEachKind(t *testing.T) {
	for name, c := range map[string]struct{ rule, message, remedy string }{
		"from this node's address":  {"from 192.168.1.11", "from 192.168.1.11 to 10.244.2.1 (this node to a peer's pod)", "`ip rule add to 10.244.0.0/16 lookup main priority 999`"},
		"from pods here":            {"from 10.244.1.0/24", "from 10.244.1.2 to 10.244.2.1 (a pod here to a peer's pod)", "to 10.244.0.0/16"},
		"to a peer":                 {"from 10.244.1.0/24 to 192.168.1.12", "from 10.244.1.2 to 192.168.1.12 (a pod here to a peer)", "to 192.168.1.12/32"},
		"from a peer":               {"from 192.168.1.12", "from 192.168.1.12 to 10.244.1.2 (a peer to a pod here)", "to 10.244.0.0/16"},
		"from peers' pods":          {"from 10.244.2.0/24", "from 10.244.2.1 to 10.244.1.2 (a peer's pod to a pod here)", "to 10.244.0.0/16"},
		"by the uplink":             {"from all iif eth0", "(a peer's pod to a pod here)", "to 10.244.0.0/16"},
		"to pods here":              {"from 192.168.1.11 to 10.244.1.0/24", "from 192.168.1.11 to 10.244.1.2 (this node to a pod here)", "to 10.244.0.0/16"},
		"from a single pod":         {"from 10.244.1.70", "from 10.244.1.70 to 10.244.2.1 (a pod here to a peer's pod)", "to 10.244.0.0/16"},
		"to some of a peer's pods":  {"to 10.244.2.128/25", "from 10.244.1.2 to 10.244.2.129 (a pod here to a peer's pod)", "to 10.244.0.0/16"},
		"IPv6 from a single pod":    {"-6 from fd00:10:244:1::77", "from fd00:10:244:1::77 to fd00:10:244:2::1 (a pod here to a peer's pod)", "to fd00:10:244:2::/64"},
		"IPv6 from this node":       {"-6 from fd00:192:168:1::11", "to fd00:10:244:2::1 (this node to a peer's pod)", "`ip -6 rule add to fd00:10:244:2::/64 lookup main priority 999`"},
		"IPv6 from a peer":          {"-6 from fd00:192:168:1::12", "to fd00:10:244:1::2 (a peer to a pod here)", "to fd00:10:244:1::/64"},
		"IPv6 from pods to a peer":  {"-6 from fd00:10:244:1::/64 to fd00:192:168:1::12", "(a pod here to a peer)", "to fd00:192:168:1::12/128"},
		"IPv6 from pods to others'": {"-6 from fd00:10:244:1::/64", "(a pod here to a peer's pod)", "to fd00:10:244:2::/64"},
		"a port":                    {"from all ipproto tcp dport 10250", "(a pod here to a peer's pod): TCP, to port 10250", "to 10.244.0.0/16"},
		"answers from ports":        {"from 192.168.1.11 ipproto udp sport 53-60", "(this node to a peer's pod): UDP, from port 53", "to 10.244.0.0/16"},
		"a port of any protocol":    {"from 192.168.1.11 dport 443", "(this node to a peer's pod): TCP, to port 443", "to 10.244.0.0/16"},
		"pings":                     {"from all ipproto icmp", "(a pod here to a peer's pod): ICMP", "to 10.244.0.0/16"},
		"a type of service":         {"from all tos 0x10", "(a pod here to a peer's pod): type of service 0x10", "to 10.244.0.0/16"},
		"to node ports":             {"from all fwmark 0x4000/0x4000", "(a pod here to a peer's pod): mark 0x4000", "to 10.244.0.0/16"},
		"IPv6 pings":                {"-6 from all ipproto ipv6-icmp", "(a pod here to a peer's pod): ICMPv6", "to fd00:10:244:2::/64"},
		"IPv6 to a port of pods":    {"-6 to fd00:10:244:1::/64 iif eth0 ipproto tcp dport 80", "(a peer's pod to a pod here): TCP, to port 80", "to fd00:10:244:1::/64"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newDualTestbed(t)
			w.finds("policy-rules", problem.None)
			w.sh("ip route add default via 192.168.1.1 table 100; ip -6 route add default via fd00:192:168:1::1 table 100")
			family, rule, six := strings.Cut(c.rule, "-6 ")
			if !six {
				family, rule = "", family
			} else {
				family = "-6 "
			}
			w.sh("ip " + family + "rule add " + rule + " lookup 100 priority 1000")
			if f := w.finds("policy-rules", problem.Error); !strings.Contains(f.Message, c.message) || !strings.Contains(f.Remediation, c.remedy) {
				t.Errorf("found %+v", f)
			}
		})
	}
}

// A rule for packets that a cluster does not send is not reported.
func TestPolicyRulesOfOthersPackets(t *testing.T) {
	w := newDualTestbed(t)
	w.sh("ip route add default via 192.168.1.1 table 100")
	for priority, rule := range []string{"fwmark 0xca6c", "fwmark 0x200/0xf00", "ipproto sctp", "ipproto tcp dport 22 lookup main priority 1; ip rule add from 198.51.100.7"} {
		w.sh(fmt.Sprintf("ip rule add from all %s lookup 100 priority %d", rule, 1000+priority))
	}
	w.finds("policy-rules", problem.None)
}

// Another table that takes precedence has all but a part of a subnet.
func TestPolicyRulesOfOtherTables(t *testing.T) {
	for route, message := range map[string]string{
		"route add blackhole 10.244.2.64/26 table 200":         "to 10.244.2.65 (a pod here to a peer's pod)",
		"route add 10.244.1.70 via 192.168.1.1 table 200":      "to 10.244.1.70 (a peer's pod to a pod here)",
		"-6 route add unreachable fd00:10:244:2::7 table 200":  "to fd00:10:244:2::7 (a pod here to a peer's pod)",
		"-6 route add prohibit fd00:10:244:1::/80 table 200":   "to fd00:10:244:1::2 (a peer's pod to a pod here)",
		"route add 10.244.2.128/25 via 192.168.1.1 table 1000": "",
	} {
		t.Run(route, func(t *testing.T) {
			w := newDualTestbed(t)
			w.sh("ip rule add from all lookup 200 priority 1000; ip -6 rule add from all lookup 200 priority 1000; ip " + route)
			if message == "" {
				w.finds("policy-rules", problem.None)
			} else if f := w.finds("policy-rules", problem.Error); !strings.Contains(f.Message, message) {
				t.Errorf("found %+v", f)
			}
		})
	}
}

// Packets to peers' pods leave by another link than theirs arrive on.
func TestReversePath(t *testing.T) {
	w := newTestbed(t)
	w.setting("net/ipv4/conf/eth0/rp_filter", "1")
	w.finds("rp-filter", problem.None)
	w.add(&rtnl.Veth{LinkAttrs: rtnl.LinkAttrs{Name: "eth1"}, PeerName: "lan1"})
	w.address("eth1", "192.168.2.11/24")
	other, err := w.nl.LinkByName("eth1")
	w.must(err)
	subnet, err := rtnl.ParseIPNet("10.244.3.0/24")
	w.must(err)
	w.must(w.nl.RouteAdd(&rtnl.Route{Dst: subnet, Gw: net.IPv4(192, 168, 2, 13), LinkIndex: other.Attrs().Index, Protocol: topology.Protocol, Priority: int(topology.PeerMetric(netip.MustParsePrefix("10.244.3.0/24")))}))
	w.look()
	if f := w.finds("rp-filter", problem.Error); !strings.Contains(f.Remediation, "conf/eth0/rp_filter=2") {
		t.Errorf("found %+v", f)
	}
	w.setting("net/ipv4/conf/all/rp_filter", "2")
	w.finds("rp-filter", problem.None)
}

// A link to which peers send IPv6 alone drops nothing of IPv4.
func TestReversePathOfAnotherFamily(t *testing.T) {
	w := newTestbed(t)
	w.add(&rtnl.Veth{LinkAttrs: rtnl.LinkAttrs{Name: "eth1"}, PeerName: "lan1"})
	w.address("eth1", "fd00:192:168:2::11/64")
	w.Report.Host.Addresses = append(w.Report.Host.Addresses, netip.MustParseAddr("fd00:192:168:2::11"))
	w.Report.Host.Uplinks = append(w.Report.Host.Uplinks, status.Uplink{Name: "eth1", MTU: 1500})
	for dev, value := range map[string]string{"all": "0", "eth0": "0", "eth1": "1"} {
		w.setting(topology.ConfSysctl(4, dev, "rp_filter"), value)
	}
	w.look()
	w.finds("rp-filter", problem.None)
	w.address("eth1", "192.168.2.11/24")
	w.Report.Host.Addresses = append(w.Report.Host.Addresses, netip.MustParseAddr("192.168.2.11"))
	w.look()
	w.finds("rp-filter", problem.Error) // its peers send IPv4 there
}

func TestCNIConfigs(t *testing.T) {
	w := newTestbed(t)
	w.write(filepath.Join(w.Store.ConfDir, "05-other.conflist"), "{}")
	if f := w.finds("cni-configs", problem.Error); !strings.Contains(f.Evidence, "05-other.conflist") {
		t.Errorf("found %+v", f)
	}
	w.ConfigsBefore = []string{"05-other.conflist"}
	w.finds("cni-configs", problem.None)
	w.write(filepath.Join(w.Store.ConfDir, "06-other.conflist"), "{}")
	if f := w.finds("cni-configs", problem.Error); strings.Contains(f.Evidence, "05-") || !strings.Contains(f.Remediation, "06-other.conflist") {
		t.Errorf("found %+v", f)
	}
}

// A plugin that another program has added may be a script, but has to exist.
func TestChainedPlugins(t *testing.T) {
	w := newTestbed(t)
	w.State.CNI = &topology.CNI{Plugins: []topology.Plugin{{Type: "mesh-cni"}}}
	if f := w.finds("cni-plugins", problem.Error); !strings.HasSuffix(f.Evidence, ": mesh-cni") || !strings.Contains(f.Remediation, "installed by that program") {
		t.Errorf("found %+v", f)
	}
	w.write(filepath.Join(w.BinDir, "mesh-cni"), "#!/bin/sh")
	w.must(os.Chmod(filepath.Join(w.BinDir, "mesh-cni"), 0o755))
	w.finds("cni-plugins", problem.None)
}

func TestPlugins(t *testing.T) {
	w := newTestbed(t)
	w.must(os.Remove(filepath.Join(w.BinDir, "bridge")))
	if f := w.finds("cni-plugins", problem.Error); !strings.HasSuffix(f.Evidence, ": bridge") {
		t.Errorf("found %+v", f)
	}
	w.write(filepath.Join(w.BinDir, "bridge"), "<html>404</html>")
	w.finds("cni-plugins", problem.Error)
	w.BinDir = filepath.Join(w.BinDir, "none")
	w.finds("cni-plugins", problem.Unknown)
	w.BinDir = ""
	if f := w.finds("cni-plugins", problem.Unknown); !strings.Contains(f.Message+f.Evidence, "does not look at CNI plugins") {
		t.Errorf("found %+v", f)
	}
}

func TestLeftovers(t *testing.T) {
	for network, leave := range map[string]func(*testbed){
		"flannel": func(w *testbed) { w.add(&rtnl.Bridge{LinkAttrs: rtnl.LinkAttrs{Name: "cni0"}}) },
		"Calico":  func(w *testbed) { w.route("10.99.0.0/26", "192.168.1.12", 80, 0) },
		"Cilium":  func(w *testbed) { w.write(filepath.Join(w.Store.ConfDir, "05-cilium.conflist"), "{}") },
		"Weave":   func(w *testbed) { w.chain("WEAVE-NPC") },
		"a host":  func(w *testbed) { w.chain("CNI-HOSTPORT-DNAT") },
	} {
		t.Run(network, func(t *testing.T) {
			w := newTestbed(t)
			leave(w)
			w.look()
			if f := w.finds("leftovers", problem.Warning); !strings.HasPrefix(f.Message, network) {
				t.Errorf("found %+v", f)
			}
		})
	}
}

// chain makes one as iptables-nft does.
func (w *testbed) chain(name string) {
	w.t.Helper()
	nft, err := nftables.New()
	w.must(err)
	nft.AddChain(&nftables.Chain{Name: name, Table: nft.AddTable(&nftables.Table{Name: "filter", Family: nftables.TableFamilyIPv4})})
	w.must(nft.Flush())
}

// iptables-legacy writes where nftables does not show it.
func TestForwardPolicyOfLegacyIPTables(t *testing.T) {
	w := newTestbed(t)
	run := legacyIPTables(t)
	w.finds("forward-policy", problem.None)
	if names, err := os.ReadFile("/proc/thread-self/net/ip_tables_names"); err != nil || len(names) > 0 {
		t.Errorf("asking made the tables %q, %v", names, err)
	}
	run("iptables", "-P", "FORWARD", "DROP")
	f := w.finds("forward-policy", problem.Error)
	if !strings.HasPrefix(f.Evidence, "iptables-legacy: chain FORWARD (policy DROP) with 0 rules") || !strings.Contains(f.Remediation, "iptables-legacy -I FORWARD -s 10.244.1.0/24 -j ACCEPT") {
		t.Errorf("found %+v", f)
	}
	run("iptables", "-A", "FORWARD", "-i", "docker0", "-j", "ACCEPT")
	run("iptables", "-A", "FORWARD", "-p", "tcp", "--dport", "80", "-m", "comment", "--comment", "a match", "-j", "ACCEPT")
	run("iptables", "-A", "FORWARD", "-p", "udp", "-j", "ACCEPT")
	if f := w.finds("forward-policy", problem.Warning); !strings.Contains(f.Evidence, "with 3 rules") {
		t.Errorf("found %+v", f)
	}
	run("iptables", "-P", "FORWARD", "ACCEPT")
	w.finds("forward-policy", problem.None)
	run("ip6tables", "-P", "FORWARD", "DROP")
	w.finds("forward-policy", problem.None) // no pod has an IPv6 address
	w.Report.Host.Subnets = append(w.Report.Host.Subnets, netip.MustParsePrefix("fd00:10:244:1::/64"))
	w.finds("forward-policy", problem.Error)
}

// legacyIPTables runs iptables-legacy.
func legacyIPTables(t *testing.T) func(args ...string) {
	t.Helper()
	program := debianProgram(t, "xtables-legacy-multi")
	return func(args ...string) {
		t.Helper()
		program("", args...)
	}
}
