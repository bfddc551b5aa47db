package inspect

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	rtnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/test/seccomp"
)

// firewall loads tables of nftables:
//
//	table inet fw { chain forward { drop; ip saddr vmap @pods; ip saddr vmap @pods; goto a }
//	                chain a { ip daddr @nets accept }     nets: 10.244.2.0/24, 10.244.3.0-10.244.3.255
//	                chain b { ip daddr 10.244.2.9 drop }  pods: 10.244.1.7 jump b, 10.244.1.8 return
//	                chain input { accept } }
//	table ip6 fw6 { chain forward { accept } }
func (m *machine) firewall() (b *nftables.Rule) {
	m.t.Helper()
	c := m.nft4test()
	table := c.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "fw"})
	base := func(table *nftables.Table, name string, hook *nftables.ChainHook, policy nftables.ChainPolicy) *nftables.Chain {
		return c.AddChain(&nftables.Chain{Table: table, Name: name, Type: nftables.ChainTypeFilter, Hooknum: hook, Priority: nftables.ChainPriorityFilter, Policy: &policy})
	}
	forward := base(table, "forward", nftables.ChainHookForward, nftables.ChainPolicyDrop)
	base(table, "input", nftables.ChainHookInput, nftables.ChainPolicyDrop)
	base(c.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv6, Name: "fw6"}), "forward", nftables.ChainHookForward, nftables.ChainPolicyAccept)
	chainA := c.AddChain(&nftables.Chain{Table: table, Name: "a"})
	chainB := c.AddChain(&nftables.Chain{Table: table, Name: "b"})
	pods := &nftables.Set{Table: table, Name: "pods", IsMap: true, KeyType: nftables.TypeIPAddr, DataType: nftables.TypeVerdict}
	m.must(c.AddSet(pods, []nftables.SetElement{
		{Key: []byte{10, 244, 1, 7}, VerdictData: &expr.Verdict{Kind: expr.VerdictJump, Chain: "b"}},
		{Key: []byte{10, 244, 1, 8}, VerdictData: &expr.Verdict{Kind: expr.VerdictReturn}},
	}))
	nets := &nftables.Set{Table: table, Name: "nets", Interval: true, KeyType: nftables.TypeIPAddr}
	m.must(c.AddSet(nets, []nftables.SetElement{
		{Key: []byte{10, 244, 2, 0}},
		{Key: []byte{10, 244, 3, 0}, IntervalEnd: true},
		{Key: []byte{10, 244, 3, 0}},
		{Key: []byte{10, 244, 4, 0}, IntervalEnd: true},
	}))
	add := func(chain *nftables.Chain, exprs ...expr.Any) *nftables.Rule {
		return c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: exprs})
	}
	for range 2 {
		add(forward, ipField(sourceAt, 4), &expr.Lookup{SourceRegister: 1, SetName: "pods", SetID: pods.ID, IsDestRegSet: true})
	}
	add(forward, &expr.Verdict{Kind: expr.VerdictGoto, Chain: "a"})
	add(chainA, ipField(targetAt, 4), &expr.Lookup{SourceRegister: 1, SetName: "nets", SetID: nets.ID}, &expr.Verdict{Kind: expr.VerdictAccept})
	add(chainB, ipField(targetAt, 4), cmpIs(10, 244, 2, 9), &expr.Verdict{Kind: expr.VerdictDrop})
	m.must(c.Flush())
	rules, err := c.GetRules(table, chainB)
	m.must(err)
	return rules[0]
}

var firewalled = []Packet{
	{From: netip.MustParsePrefix("10.244.1.7/32"), To: netip.MustParsePrefix("10.244.2.9/32")},
	{From: netip.MustParsePrefix("10.244.1.7/32"), To: netip.MustParsePrefix("10.244.2.8/32")},
	{From: netip.MustParsePrefix("10.244.1.7/32"), To: netip.MustParsePrefix("10.244.4.0/32")},
	{From: netip.MustParsePrefix("10.244.1.8/32"), To: netip.MustParsePrefix("10.244.2.8/32")},
	{From: netip.MustParsePrefix("10.244.1.9/32"), To: netip.MustParsePrefix("10.244.3.0/24")},
	{From: netip.MustParsePrefix("fd00::7/128"), To: netip.MustParsePrefix("fd00::8/128")},
}

func outcomesOf(chains []Chain) (all []string) {
	for _, c := range chains {
		all = append(all, c.String())
		for _, f := range c.Outcomes {
			all = append(all, f.text())
		}
	}
	return all
}

func TestForwardChains(t *testing.T) {
	m := newMachine(t)
	i := m.inspector()
	if chains, err := i.ForwardChains(firewalled); len(chains) != 0 || err != nil {
		t.Errorf("without any table: %v, %v", chains, err)
	}
	handle := m.firewall().Handle
	chains, err := i.ForwardChains(firewalled)
	m.must(err)
	want := []string{
		"chain inet fw forward { type filter hook forward; policy drop; } with 3 rules",
		fmt.Sprintf("dropped by the rule of handle %d in b", handle), "accepted", "dropped by its policy", "dropped by its policy", "accepted",
		"dropped by its policy", // by bytes of the IPv6 header where IPv4 has addresses
		"chain ip6 fw6 forward { type filter hook forward; policy accept; } with 0 rules",
		"accepted", "accepted", "accepted", "accepted", "accepted", "accepted",
	}
	if got := outcomesOf(chains); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	names, err := i.Chains()
	m.must(err)
	if slices.Sort(names); !slices.Equal(names, []string{"a", "b", "forward", "forward", "input"}) {
		t.Errorf("the chains are %q", names)
	}
}

// A chain that can't be read is an error. Lookups in a set that can't be read are unknown. Each is
// read once.
func TestRefusedForwardChainsAreReported(t *testing.T) {
	m := newMachine(t)
	m.firewall()
	i := m.inspector()
	r := seccomp.NewRefuser(t)
	const nftables, getChain, getRule, getSet, getElements = unix.NFNL_SUBSYS_NFTABLES << 8, 4, 7, 10, 13 // enum nf_tables_msg_types
	r.Requests(unix.ENOMEM, nftables|getChain)
	if names, err := i.Chains(); names != nil || !errors.Is(err, unix.ENOMEM) || !strings.HasPrefix(err.Error(), "listing chains: ") {
		t.Errorf("got %v, %v", names, err)
	}
	var asked []string
	for n := 1; ; n++ {
		end := r.Nth(unix.ENOMEM, n)
		chains, err := i.ForwardChains(firewalled[1:2])
		kind := end()
		if len(kind) == 0 {
			break
		}
		reported := map[uint16]string{nftables | getChain: "listing chains: ", nftables | getRule: "listing the rules of "}[kind[0]]
		switch {
		case reported != "":
			if err == nil || !strings.HasPrefix(err.Error(), reported) || !strings.HasSuffix(err.Error(), unix.ENOMEM.Error()) {
				t.Errorf("without request %d, of kind %d: %v", n, kind, err)
			}
		case err != nil || chains[0].Outcomes[0].UncertainRule == "":
			t.Errorf("without request %d, of kind %d: %+v, %v", n, kind, chains, err)
		}
		asked = append(asked, map[uint16]string{nftables | getChain: "chains", nftables | getRule: "rules", nftables | getSet: "set", nftables | getElements: "elements"}[kind[0]])
	}
	slices.Sort(asked)
	if got := strings.Join(asked, " "); got != "chains elements elements rules rules rules rules set set" {
		t.Errorf("the kernel was asked for %s", got)
	}
}

func TestDevices(t *testing.T) {
	m := newMachine(t)
	m.must(m.nl.LinkAdd(&rtnl.Bridge{LinkAttrs: rtnl.LinkAttrs{Name: "br7"}}))
	m.must(m.nl.LinkSetMaster(m.eth0, m.link("br7")))
	mac := func(name string) string { return m.link(name).Attrs().HardwareAddr.String() }
	i := m.inspector()
	devices, err := i.Devices()
	m.must(err)
	for _, want := range []Device{{"lo", "device", "", ""}, {"eth0", "veth", "br7", mac("eth0")}, {"eth0-peer", "veth", "", mac("eth0-peer")}, {"br7", "bridge", "", mac("br7")}} {
		if !slices.Contains(devices, want) {
			t.Errorf("%v is not among %v", want, devices)
		}
	}
	r := seccomp.NewRefuser(t)
	r.Requests(unix.ENOMEM, unix.RTM_GETLINK)
	if devices, err := i.Devices(); devices != nil || !errors.Is(err, unix.ENOMEM) || !strings.HasPrefix(err.Error(), "listing links: ") {
		t.Errorf("got %v, %v", devices, err)
	}
}

// An Inspector keeps its file descriptors until it is closed, and leaks none.
func TestInspectorLeavesNothingOpen(t *testing.T) {
	m := newMachine(t)
	m.firewall()
	before := m.descriptors()
	i, err := New()
	m.must(err)
	_, err = i.Ports("eth0")
	m.must(err)
	open := m.descriptors()
	_, err = i.ForwardChains(firewalled)
	m.must(err)
	_, err = i.LegacyForwardChains(firewalled)
	m.must(err)
	if n := m.descriptors(); n != open {
		t.Errorf("%d file descriptors became %d", open, n)
	}
	m.must(i.Close())
	if n := m.descriptors(); n != before {
		t.Errorf("%d file descriptors became %d", before, n)
	}
	if err := i.Close(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("closing it again: %v", err)
	}
}

// New fails without netlink or without /proc, and leaks no file descriptor.
func TestRefusedInspectorIsReported(t *testing.T) {
	m := newMachine(t)
	root := t.TempDir()
	before := m.descriptors()
	seccomp.RefuseSockets(t, unix.ENFILE, unix.AF_NETLINK, unix.NETLINK_ROUTE)
	if i, err := New(); i != nil || !errors.Is(err, unix.ENFILE) || !strings.HasPrefix(err.Error(), "opening netlink: ") {
		t.Errorf("without sockets: %v, %v", i, err)
	}
	if n := m.descriptors(); n != before {
		t.Errorf("%d file descriptors became %d", before, n)
	}
	m.must(unix.Unshare(unix.CLONE_FS)) // of the test's thread, which ends with it
	m.must(unix.Chroot(root))
	if i, err := New(); i != nil || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without /proc: %v, %v", i, err)
	}
}
