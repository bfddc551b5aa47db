package faults

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	mdlayher "github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// commitLimit bounds a transaction of nftables. At its end the kernel waits for an RCU grace period: that takes tens of
// milliseconds, and more while namespaces end nearby.
const commitLimit = time.Second

func settingFaults() []fault {
	off := func(setting string) func(*lab) {
		return func(l *lab) { l.must(l.node.Sysctl("net/"+setting, "0")) }
	}
	return []fault{
		{
			name: "IPv4 forwarding switched off", answer: "it is switched on again",
			inject: off("ipv4/ip_forward"), times: 3, within: healLimit, loses: untilRepaired,
		},
		{
			name: "IPv6 forwarding switched off", answer: "it is switched on again",
			inject: off("ipv6/conf/all/forwarding"), times: 3, within: healLimit, loses: untilRepaired,
		},
		{
			name: "the uplink's own IPv4 forwarding switched off", answer: "it is switched on again",
			inject: off("ipv4/conf/" + uplink + "/forwarding"), times: 3, within: healLimit, loses: untilRepaired,
		},
		{
			name: "the uplink's own IPv6 forwarding switched off", answer: "it is switched on again",
			inject: off("ipv6/conf/" + uplink + "/forwarding"), times: 3, within: healLimit, loses: untilRepaired,
		},
		{
			name: "the bridge's own IPv4 forwarding switched off", answer: "it is switched on again",
			inject: off("ipv4/conf/" + bridge + "/forwarding"), times: 3, within: healLimit, loses: untilRepaired,
		},
		{
			name: "the nftables table deleted", answer: "it is made again",
			inject: func(l *lab) { l.changeTable(func(conn *nftables.Conn) { conn.DelTable(ourTable()) }) },
			times:  3, within: commitLimit,
		},
		{
			name: "a rule of the nftables table deleted", answer: "the table is made again in one step",
			inject: deleteRule, times: 3, within: commitLimit,
		},
		{
			name: "a rule added to the nftables table", answer: "the table is made again in one step",
			inject: addRule, times: 3, within: commitLimit,
		},
		{
			name: "a peer's address deleted from the nftables table", answer: "it is put back",
			inject: deleteElement, times: 3, within: commitLimit,
		},
		{
			name: "the nftables table switched off (`flags dormant`)", answer: "the table is made again in one step",
			inject: dormant, times: 3, within: commitLimit, repaired: notDormant,
		},
		{
			name: "`nft flush ruleset`", answer: "plainroute's table is made again; here others give back theirs",
			inject: flushRuleset, within: commitLimit,
		},
	}
}

func ourTable() *nftables.Table {
	return &nftables.Table{Name: "plainroute", Family: nftables.TableFamilyINet}
}

// changeTable makes a change to the node's nftables.
func (l *lab) changeTable(change func(*nftables.Conn)) {
	l.t.Helper()
	conn, err := l.node.NFT()
	l.must(err)
	change(conn)
	l.must(conn.Flush())
}

func postrouting() *nftables.Chain { return &nftables.Chain{Name: "postrouting", Table: ourTable()} }

func deleteRule(l *lab) {
	l.changeTable(func(conn *nftables.Conn) {
		rules, err := conn.GetRules(ourTable(), postrouting())
		l.must(err)
		l.must(conn.DelRule(rules[len(rules)-1]))
	})
}

// addRule appends one that does nothing.
func addRule(l *lab) {
	l.changeTable(func(conn *nftables.Conn) {
		conn.AddRule(&nftables.Rule{
			Table: ourTable(), Chain: postrouting(), Exprs: []expr.Any{&expr.Verdict{Kind: expr.VerdictReturn}},
		})
	})
}

func deleteElement(l *lab) {
	l.changeTable(func(conn *nftables.Conn) {
		set, err := conn.GetSetByName(ourTable(), "nodes4")
		l.must(err)
		l.must(conn.SetDeleteElements(set, []nftables.SetElement{{Key: l.peer.V4.AsSlice()}}))
	})
}

// flushRuleset deletes all tables, and makes that of others again.
func flushRuleset(l *lab) {
	l.changeTable(func(conn *nftables.Conn) { conn.FlushRuleset() })
	l.must(l.node.plantTable())
}

// dormant does `nft add table inet plainroute '{ flags dormant; }'`, which google/nftables has no
// words for: one change of a table between the messages that begin and end a transaction
// (nfnetlink_rcv_batch of net/netfilter/nfnetlink.c).
func dormant(l *lab) {
	header := func(family byte, resource uint16) []byte {
		return binary.BigEndian.AppendUint16([]byte{family, unix.NFNETLINK_V0}, resource)
	}
	table, err := mdlayher.MarshalAttributes([]mdlayher.Attribute{
		{Type: unix.NFTA_TABLE_NAME, Data: []byte("plainroute\x00")},
		{Type: unix.NFTA_TABLE_FLAGS, Data: []byte{0, 0, 0, unix.NFT_TABLE_F_DORMANT}},
	})
	l.must(err)
	message := func(kind mdlayher.HeaderType, flags mdlayher.HeaderFlags, data []byte) mdlayher.Message {
		return mdlayher.Message{Header: mdlayher.Header{Type: kind, Flags: mdlayher.Request | flags}, Data: data}
	}
	l.must(l.node.Do(func() error {
		conn, err := mdlayher.Dial(unix.NETLINK_NETFILTER, nil)
		if err != nil {
			return err
		}
		defer conn.Close()
		_, err = conn.SendMessages([]mdlayher.Message{
			message(unix.NFNL_MSG_BATCH_BEGIN, 0, header(unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES)),
			message(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWTABLE, mdlayher.Acknowledge, append(header(unix.NFPROTO_INET, 0), table...)),
			message(unix.NFNL_MSG_BATCH_END, 0, header(unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES)),
		})
		if err == nil {
			_, err = conn.Receive()
		}
		return err
	}))
}

// notDormant returns an error if the table is dormant, or anything of ours is not as it was.
func notDormant(l *lab) error {
	conn, err := l.node.NFT()
	if err != nil {
		return err
	}
	table, err := conn.ListTableOfFamily("plainroute", nftables.TableFamilyINet)
	if err != nil {
		return err
	}
	if table.Flags != 0 {
		return fmt.Errorf("the table's flags are %#x", table.Flags)
	}
	return l.checkOurs()
}
