package dataplane

import (
	"encoding/binary"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/topology"
)

// foreignFeatures keep our table from working, or may do so.
func foreignFeatures() map[string]func(*machine) {
	return map[string]func(*machine){
		"dormant table":                     (*machine).dormant,
		"set that forgets its elements":     setWith(func(s *nftables.Set) { s.HasTimeout, s.Timeout = true, time.Hour }),
		"set with elements that may expire": setWith(func(s *nftables.Set) { s.HasTimeout = true }),
		"set without room":                  setWith(func(s *nftables.Set) { s.Size = 100 }),
		"set that rules may add to":         setWith(func(s *nftables.Set) { s.Dynamic = true }),
		"set that can't be changed":         setWith(func(s *nftables.Set) { s.Constant = true }),
		"element that matches everything":   (*machine).catchAll,
		"unsupported expression":            (*machine).unknownExpression,
		"range that is no prefix": func(m *machine) {
			c := m.nft4test()
			m.must(c.SetAddElements(families[0].clusterSet(), []nftables.SetElement{{Key: []byte{11, 0, 0, 1}}, {Key: []byte{11, 0, 0, 9}, IntervalEnd: true}}))
			m.must(c.Flush())
		},
		"foreign chain": func(m *machine) {
			c := m.nft4test()
			c.AddChain(&nftables.Chain{Name: "theirs", Table: nftTable})
			m.must(c.Flush())
		},
		"chain that drops": func(m *machine) {
			c := m.nft4test()
			c.AddChain(&nftables.Chain{
				Name: "prerouting", Table: nftTable, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookPrerouting,
				Priority: nftables.ChainPriorityRaw, Policy: new(nftables.ChainPolicyDrop),
			})
			m.must(c.Flush())
		},
		"foreign rule": func(m *machine) {
			c := m.nft4test()
			c.AddRule(&nftables.Rule{Table: nftTable, Chain: &nftables.Chain{Name: "postrouting", Table: nftTable}, Exprs: skipBridged("br7")})
			m.must(c.Flush())
		},
	}
}

// A table with any of these differs from ours, so it is replaced.
func TestTableWithForeignFeaturesIsNotOurs(t *testing.T) {
	m := newMachine(t)
	m.settle(nodes(4))
	ours := *m.observe().Masquerade
	for name, disturb := range foreignFeatures() {
		disturb(m)
		if got := m.table(); !reflect.DeepEqual(*got, topology.Masquerade{}) {
			t.Errorf("%s: it is taken for %+v", name, got)
		}
		m.must(m.writeTable(&ours))
		if got := m.table(); !reflect.DeepEqual(*got, ours) {
			t.Errorf("%s: after it was replaced it is %+v, want %+v", name, got, ours)
		}
	}
}

// Such a change is announced, found and repaired in one pass.
func TestTableWithForeignFeatures(t *testing.T) {
	for _, name := range []string{"dormant table", "set without room", "element that matches everything", "unsupported expression"} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			news := m.watchSettled(nodes(4))
			foreignFeatures()[name](m)
			for found := false; !found; {
				m.expect(news, name+" after which a pass finds something to do")
				drain(news, shortly)
				found = !m.pass(nodes(4)).Empty()
			}
			m.settle(nodes(4))
		})
	}
}

// Chains and rules of another table are of no concern, whatever their names are.
func TestChainsOfAnotherTable(t *testing.T) {
	m := newMachine(t)
	m.settle(nodes(4))
	c := m.nft4test()
	theirs := c.AddTable(&nftables.Table{Name: "theirs", Family: nftables.TableFamilyINet})
	for _, name := range []string{"prerouting", "theirs"} {
		c.AddRule(&nftables.Rule{Table: theirs, Chain: c.AddChain(&nftables.Chain{Name: name, Table: theirs}), Exprs: skipBridged("br7")})
	}
	m.must(c.Flush())
	m.Forget()
	if changes := m.pass(nodes(4)); !changes.Empty() {
		t.Errorf("a pass did %+v", changes)
	}
}

// A table of our name in another family is foreign, with all of its objects.
func TestTableOfOurNameInAnotherFamily(t *testing.T) {
	m := newMachine(t)
	m.settle(nodes(4))
	c := m.nft4test()
	theirs := c.AddTable(&nftables.Table{Name: topology.Table, Family: nftables.TableFamilyIPv4})
	c.AddChain(&nftables.Chain{Name: "prerouting", Table: theirs})
	m.must(c.Flush())
	m.Forget()
	if changes := m.pass(nodes(4)); !changes.Empty() {
		t.Errorf("a pass did %+v", changes)
	}
	chains, err := c.ListChainsOfTableFamily(nftables.TableFamilyIPv4)
	m.must(err)
	if len(chains) != 1 {
		t.Errorf("their chains are %v", chains)
	}
}

// dormant switches our table off, as `nft add table inet plainroute '{ flags dormant; }'` does.
func (m *machine) dormant() {
	m.t.Helper()
	m.must(m.transaction(unix.NFT_MSG_NEWTABLE, netlink.Create, []netlink.Attribute{
		{Type: unix.NFTA_TABLE_NAME, Data: []byte(topology.Table + "\x00")},
		{Type: unix.NFTA_TABLE_FLAGS, Data: []byte{0, 0, 0, unix.NFT_TABLE_F_DORMANT}},
	}))
}

// catchAll adds the element `*` to a set, so that no packet is masqueraded any more.
func (m *machine) catchAll() {
	m.t.Helper()
	const flagCatchAll = 2 // NFT_SET_ELEM_CATCHALL of linux/netfilter/nf_tables.h
	element := m.attributes(netlink.Attribute{Type: unix.NFTA_SET_ELEM_FLAGS, Data: []byte{0, 0, 0, flagCatchAll}})
	m.must(m.transaction(unix.NFT_MSG_NEWSETELEM, netlink.Create, []netlink.Attribute{
		{Type: unix.NFTA_SET_ELEM_LIST_TABLE, Data: []byte(topology.Table + "\x00")},
		{Type: unix.NFTA_SET_ELEM_LIST_SET, Data: []byte("nodes4\x00")},
		{Type: unix.NLA_F_NESTED | unix.NFTA_SET_ELEM_LIST_ELEMENTS, Data: m.attributes(
			netlink.Attribute{Type: unix.NLA_F_NESTED | unix.NFTA_LIST_ELEM, Data: element})},
	}))
}

// unknownExpression puts a rule in place of our first one that is equal to it, but for an
// expression which google/nftables leaves out when it reads rules.
func (m *machine) unknownExpression() {
	m.t.Helper()
	c := m.nft4test()
	chain := &nftables.Chain{Name: "prerouting", Table: nftTable}
	rules, err := c.GetRules(nftTable, chain)
	m.must(err)
	last := m.attributes(netlink.Attribute{Type: unix.NFTA_EXPR_NAME, Data: []byte("last\x00")})
	var exprs []netlink.Attribute
	for _, e := range slices.Insert(rules[0].Exprs, len(rules[0].Exprs)-1, nil) {
		b := last
		if e != nil {
			b, err = expr.Marshal(unix.NFPROTO_INET, e)
			m.must(err)
		}
		exprs = append(exprs, netlink.Attribute{Type: unix.NLA_F_NESTED | unix.NFTA_LIST_ELEM, Data: b})
	}
	m.must(m.transaction(unix.NFT_MSG_NEWRULE, netlink.Replace, []netlink.Attribute{
		{Type: unix.NFTA_RULE_TABLE, Data: []byte(topology.Table + "\x00")},
		{Type: unix.NFTA_RULE_CHAIN, Data: []byte("prerouting\x00")},
		{Type: unix.NFTA_RULE_HANDLE, Data: binary.BigEndian.AppendUint64(nil, rules[0].Handle)},
		{Type: unix.NLA_F_NESTED | unix.NFTA_RULE_EXPRESSIONS, Data: m.attributes(exprs...)},
	}))
}

// setWith replaces our table, with the same elements and another kind of set for the peers' IPv4
// addresses.
func setWith(change func(*nftables.Set)) func(*machine) {
	return func(m *machine) {
		m.t.Helper()
		state := m.observe().Masquerade
		c := m.nft4test()
		c.AddTable(nftTable)
		c.DelTable(nftTable)
		c.AddTable(nftTable)
		for _, f := range families {
			nodes := f.nodesSet()
			if f.is4 {
				change(nodes)
			}
			m.must(c.AddSet(f.clusterSet(), intervals(f, state.Cluster)))
			m.must(c.AddSet(nodes, singles(f, state.Nodes)))
		}
		for _, chain := range chains(state) {
			c.AddChain(chain.Chain)
			for _, rule := range chain.rules {
				c.AddRule(&nftables.Rule{Table: nftTable, Chain: chain.Chain, Exprs: rule})
			}
		}
		m.must(c.Flush())
	}
}

// transaction sends one change of nftables that its library has no words for.
func (m *machine) transaction(kind int, flags netlink.HeaderFlags, attrs []netlink.Attribute) error {
	m.t.Helper()
	header := func(family byte, resource uint16) []byte {
		return binary.BigEndian.AppendUint16([]byte{family, unix.NFNETLINK_V0}, resource)
	}
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	m.must(err)
	defer c.Close()
	_, err = c.SendMessages([]netlink.Message{
		{Header: netlink.Header{Type: unix.NFNL_MSG_BATCH_BEGIN, Flags: netlink.Request}, Data: header(unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES)},
		{
			Header: netlink.Header{Type: netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | kind), Flags: netlink.Request | netlink.Acknowledge | flags},
			Data:   append(header(unix.NFPROTO_INET, 0), m.attributes(attrs...)...),
		},
		{Header: netlink.Header{Type: unix.NFNL_MSG_BATCH_END, Flags: netlink.Request}, Data: header(unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES)},
	})
	m.must(err)
	_, err = c.Receive()
	return err
}

func (m *machine) attributes(attrs ...netlink.Attribute) []byte {
	m.t.Helper()
	b, err := netlink.MarshalAttributes(attrs)
	m.must(err)
	return b
}
