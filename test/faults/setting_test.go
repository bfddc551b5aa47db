package faults

import (
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
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
			strike: off("ipv4/ip_forward"), times: 3, within: healLimit, loses: untilRepaired,
		},
		{
			name: "IPv6 forwarding switched off", answer: "it is switched on again",
			strike: off("ipv6/conf/all/forwarding"), times: 3, within: healLimit, loses: untilRepaired,
		},
		{
			name: "the uplink's own IPv4 forwarding switched off", answer: "it is switched on again",
			strike: off("ipv4/conf/" + uplink + "/forwarding"), times: 3, within: healLimit, loses: untilRepaired,
		},
		{
			name: "the uplink's own IPv6 forwarding switched off", answer: "it is switched on again",
			strike: off("ipv6/conf/" + uplink + "/forwarding"), times: 3, within: healLimit, loses: untilRepaired,
		},
		{
			name: "the bridge's own IPv4 forwarding switched off", answer: "it is switched on again",
			strike: off("ipv4/conf/" + bridge + "/forwarding"), times: 3, within: healLimit, loses: untilRepaired,
		},
		{
			name: "the nftables table deleted", answer: "it is made again",
			strike: func(l *lab) { l.changeTable(func(conn *nftables.Conn) { conn.DelTable(ourTable()) }) },
			times:  3, within: commitLimit,
		},
		{
			name: "a rule of the nftables table deleted", answer: "the table is made again in one step",
			strike: deleteRule, times: 3, within: commitLimit,
		},
		{
			name: "a rule added to the nftables table", answer: "the table is made again in one step",
			strike: addRule, times: 3, within: commitLimit,
		},
		{
			name: "a peer's address deleted from the nftables table", answer: "it is put back",
			strike: deleteElement, times: 3, within: commitLimit,
		},
		{
			name: "`nft flush ruleset`", answer: "plainroute's table is made again; here others give back theirs",
			strike: flushRuleset, within: commitLimit,
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
