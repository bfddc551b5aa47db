package integration

import (
	"context"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/test/nodelab"
	"github.com/plainroute/plainroute/test/testutil"
)

// Flannel's device for a family, its VNI and port (flannel's pkg/backend/vxlan).
const (
	flannelPort = 8472
	flannelMTU  = 1450
)

var flannelDevices = map[bool]string{true: "flannel.1", false: "flannel-v6.1"}

// flannelVXLAN adds to a node the leftovers of flannel's vxlan mode, of each family: the device,
// with the subnet's first address as a single one, and for each peer a route by way of the peer's
// address of that kind, its neighbor entry and its entry in the forwarding database; the config
// that attaches pods to cni0; and a chain FLANNEL-POSTRTG that masquerades.
func flannelVXLAN(t *testing.T, nodes []*nodelab.Node) {
	t.Helper()
	cards := map[string]net.HardwareAddr{}
	for _, node := range nodes {
		for i, subnet := range node.Subnets {
			cards[subnet.String()] = flannelDevice(t, node, node.Addrs()[i], subnet)
		}
		flannelConfig(t, node, flannelMTU)
		flannelChain(t, node)
	}
	for i, node := range nodes {
		peer := nodes[1-i]
		for j, subnet := range peer.Subnets {
			device := link(t, node, flannelDevices[subnet.Addr().Is4()])
			gateway, card := subnet.Addr().AsSlice(), cards[subnet.String()]
			testutil.Must(t, node.Handle().NeighSet(&netlink.Neigh{
				LinkIndex: device.Attrs().Index, State: netlink.NUD_PERMANENT, Type: unix.RTN_UNICAST, IP: gateway, HardwareAddr: card,
			}))
			testutil.Must(t, node.Handle().NeighSet(&netlink.Neigh{
				LinkIndex: device.Attrs().Index, State: netlink.NUD_PERMANENT, Family: unix.AF_BRIDGE, Flags: netlink.NTF_SELF,
				IP: peer.Addrs()[j].AsSlice(), HardwareAddr: card,
			}))
			route := &netlink.Route{LinkIndex: device.Attrs().Index, Dst: ipNet(subnet), Gw: gateway, Protocol: unix.RTPROT_BOOT}
			route.SetFlag(netlink.FLAG_ONLINK)
			testutil.Must(t, node.Handle().RouteAdd(route))
		}
	}
}

func flannelDevice(t *testing.T, node *nodelab.Node, local netip.Addr, subnet netip.Prefix) net.HardwareAddr {
	t.Helper()
	name := flannelDevices[subnet.Addr().Is4()]
	testutil.Must(t, node.Handle().LinkAdd(&netlink.Vxlan{
		LinkAttrs: netlink.LinkAttrs{Name: name, MTU: flannelMTU}, VxlanId: 1, VtepDevIndex: link(t, node, "eth0").Attrs().Index,
		SrcAddr: local.AsSlice(), Port: flannelPort, Learning: false,
	}))
	device := link(t, node, name)
	single := netip.PrefixFrom(subnet.Addr(), subnet.Addr().BitLen())
	testutil.Must(t, node.Handle().AddrAdd(device, &netlink.Addr{IPNet: ipNet(single)}))
	testutil.Must(t, node.Handle().LinkSetUp(device))
	return device.Attrs().HardwareAddr
}

// flannelChain are flannel's rules as iptables' nftables backend writes them: pods of its range are
// masqueraded towards the rest.
func flannelChain(t *testing.T, node *nodelab.Node) {
	t.Helper()
	conn, err := node.NFT()
	testutil.Must(t, err)
	table := conn.AddTable(&nftables.Table{Name: "nat", Family: nftables.TableFamilyIPv4})
	flannel := conn.AddChain(&nftables.Chain{Name: "FLANNEL-POSTRTG", Table: table})
	base := conn.AddChain(&nftables.Chain{
		Name: "POSTROUTING", Table: table, Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource,
	})
	conn.AddRule(&nftables.Rule{Table: table, Chain: base, Exprs: []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: flannel.Name}}})
	between := append(inside(16, expr.CmpOpEq), &expr.Verdict{Kind: expr.VerdictReturn})
	conn.AddRule(&nftables.Rule{Table: table, Chain: flannel, Exprs: append(inside(12, expr.CmpOpEq), between...)})
	conn.AddRule(&nftables.Rule{Table: table, Chain: flannel, Exprs: append(inside(12, expr.CmpOpEq), &expr.Masq{FullyRandom: true})})
	testutil.Must(t, conn.Flush())
}

// inside compares the first two bytes of an address in the IPv4 header with those of 10.244.0.0/16.
func inside(offset uint32, op expr.CmpOp) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 2},
		&expr.Cmp{Op: op, Register: 1, Data: []byte{10, 244}},
	}
}

func link(t *testing.T, node *nodelab.Node, name string) netlink.Link {
	t.Helper()
	found, err := node.Handle().LinkByName(name)
	testutil.Must(t, err)
	return found
}

// commands are those that docs/migrate-from-flannel.md has below a heading for the node itself, a
// line each, with the CNI folder of a test's node.
func commands(t *testing.T, heading string, node *nodelab.Node, keep func(string) bool) []string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join("..", "..", "docs", "migrate-from-flannel.md"))
	testutil.Must(t, err)
	_, text, found := strings.Cut(string(content), "\n## "+heading+"\n")
	if !found {
		t.Fatalf("the page has no heading %q", heading)
	}
	text, _, _ = strings.Cut(text, "\n## ")
	var lines []string
	for _, block := range regexp.MustCompile("(?s)```\n(.*?)```").FindAllStringSubmatch(text, -1) {
		for line := range strings.Lines(block[1]) {
			line, _, _ = strings.Cut(strings.TrimSpace(line), " #")
			if keep(line) {
				lines = append(lines, strings.ReplaceAll(line, "/etc/cni/net.d", node.ConfDir))
			}
		}
	}
	if len(lines) == 0 {
		t.Fatalf("the page has no such commands below %q", heading)
	}
	return lines
}

// types runs them on the node, as an operator there would.
func types(ctx context.Context, t *testing.T, node *nodelab.Node, lines []string) {
	t.Helper()
	for _, line := range lines {
		t.Logf("%s: %s", node.Name, line)
		var out []byte
		if err := node.Do(func() (err error) {
			out, err = exec.CommandContext(ctx, "sh", "-c", line).CombinedOutput()
			return err
		}); err != nil {
			t.Fatalf("%s: %s: %v\n%s", node.Name, line, err, out)
		}
	}
}

func starts(prefixes ...string) func(string) bool {
	return func(line string) bool {
		for _, prefix := range prefixes {
			if strings.HasPrefix(line, prefix) {
				return true
			}
		}
		return false
	}
}

// The steps of docs/migrate-from-flannel.md for vxlan, with the page's own commands, on nodes that
// filter by strict reverse paths as some distributions have it: no packet is lost in steps 1 and 3,
// and in step 2 pods of both networks reach each other.
func TestMigrationFromFlannelVXLAN(t *testing.T) {
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("there is no ip(8) here, which the page's commands take")
	}
	f := setup(t)
	ctx := testutil.Within(t, 2*limit)
	nodes := []*nodelab.Node{f.node(t), f.node(t)}
	flannelVXLAN(t, nodes)
	pods := make([]*nodelab.Pod, len(nodes))
	for i, node := range nodes {
		testutil.Must(t, node.Register(ctx))
		testutil.Must(t, node.Sysctl("net/ipv4/ip_forward", "1"))
		testutil.Must(t, node.Sysctl("net/ipv6/conf/all/forwarding", "1"))
		testutil.Must(t, node.Sysctl("net/ipv4/conf/eth0/rp_filter", "1"))
		testutil.Must(t, node.Sysctl("net/ipv4/conf/flannel.1/rp_filter", "1"))
		var err error
		pods[i], err = node.AddPod(ctx, "flannel")
		testutil.Must(t, err)
	}
	meet(ctx, t, pods)

	flows := startFlows(t, pods)
	for i, node := range nodes {
		testutil.Must(t, node.StartAgent(nodelab.AgentOptions{}))
		testutil.Must(t, node.AwaitRoute(ctx, nodes[1-i].Subnets...))
		waitNotReady(t, node, "CNIConflict", flannelConflist)
		testutil.Must(t, flows[0].Run(ctx, 20))
	}
	stopFlows(t, flows)

	for i, node := range nodes {
		testutil.Must(t, pods[i].Remove(ctx))
		types(ctx, t, node, commands(t, "2. Hand over one node after the other", node, starts("rm ", "ip ")))
		testutil.Must(t, node.WaitReady(ctx))
		var err error
		pods[i], err = node.AddPod(ctx, "ours")
		testutil.Must(t, err)
		meet(ctx, t, pods)
	}

	flows = startFlows(t, pods)
	for _, step := range [][]string{{"sysctl "}, {"ip route flush dev flannel.1", "ip -6 route flush "}, {"ip link del flannel"}} {
		for _, node := range nodes {
			types(ctx, t, node, commands(t, "3. Remove what flannel left", node, starts(step...)))
			testutil.Must(t, flows[0].Run(ctx, 20))
		}
	}
	for i, node := range nodes {
		peer := nodes[1-i]
		testutil.AwaitTrue(t, "no Problem is left on "+node.Name, func() bool {
			return !hasProblem(t, node, peer.Name, "RouteConflict", "") && !hasProblem(t, node, node.Name, "RangeOverlap", "")
		})
	}
	stopFlows(t, flows)
	meet(ctx, t, pods)
	// Flannel's chain still does this, as the page describes.
	reaches(ctx, t, pods[0].Host, nodes[1].V4, nodes[0].V4)
}
