package dataplane

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/mdlayher/netlink"
	rtnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/plan"
	"github.com/plainroute/plainroute/pkg/topology"
)

// errNoNFT is returned where the kernel has no nf_tables: no such netlink family, or nfnetlink
// without it. A module may add it later.
var errNoNFT = errors.New("this kernel has no nf_tables (load the module nf_tables, or take a kernel built with CONFIG_NF_TABLES and CONFIG_NF_TABLES_INET)")

// withoutNFT marks the errors of a kernel without nf_tables: EPROTONOSUPPORT for the socket
// (netlink_create of net/netlink/af_netlink.c), EINVAL for a request to a missing part of nfnetlink
// (nfnetlink_rcv_msg of net/netfilter/nfnetlink.c).
func withoutNFT(err error) error {
	if errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("%w: %w", errNoNFT, err)
	}
	return err
}

// openNFT opens the sockets for our table that are closed. Notifications, which Watch reads even if
// it runs already, come first, so that no change is missed.
func (k *Kernel) openNFT() error {
	if k.nftEvents == nil {
		err := k.namespace.do(func() (err error) {
			k.nftEvents, err = listenTo(unix.NETLINK_NETFILTER, unix.NFNLGRP_NFTABLES)
			return err
		})
		if err != nil {
			return withoutNFT(err)
		}
		k.newEvents <- k.nftEvents
	}
	if k.nft == nil {
		return withoutNFT(k.dialNFT())
	}
	return nil
}

// listenTo subscribes to groups of notifications.
func listenTo(protocol int, groups ...uint32) (*netlink.Conn, error) {
	c, err := netlink.Dial(protocol, &netlink.Config{MessageBufferSize: readBuffer})
	if err != nil {
		return nil, err
	}
	if err := c.SetReadBuffer(receiveBuffer); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	for _, group := range groups {
		// Without CAP_NET_ADMIN some groups are refused. Observe reports the same refusal.
		if err := c.JoinGroup(group); err != nil && !errors.Is(err, unix.EPERM) {
			return nil, errors.Join(fmt.Errorf("joining notifications %d: %w", group, err), c.Close())
		}
	}
	return c, nil
}

// loadTable reads our table. A kernel without nf_tables has none, which is an error only of a
// write. After any other failure, which is kept and not returned because routes don't depend on the
// table, it is assumed to be unchanged, and the next pass reads it again.
func (k *Kernel) loadTable() error {
	table, err := k.wholeTable()
	if err != nil && !errors.Is(err, errNoNFT) {
		k.unread = fmt.Errorf("reading nftables table %s: %w%s", topology.Table, err, permission(err))
		return nil
	}
	k.masquerade, k.unread, k.fresh.masquerade = table, nil, true
	k.cover(table)
	return nil
}

func (k *Kernel) wholeTable() (table *topology.Masquerade, err error) {
	if err := k.openNFT(); err != nil {
		return nil, err
	}
	err = whole(k.generation, func() (err error) {
		if table, err = k.readTable(); err != nil { // the connection may have unread answers
			table, err = nil, errors.Join(err, k.dialNFT())
		}
		return err
	})
	return table, err
}

// changeTable changes our table in a transaction, and explains a bare errno.
func (k *Kernel) changeTable(c plan.Change) error {
	err := k.openNFT()
	if err == nil {
		switch o := c.Object.(type) {
		case plan.Sets:
			err = k.changeSets(*o.SetChange)
		case plan.Table:
			if c.Op == plan.Delete {
				err = k.deleteTable()
			} else if err = k.lacksNFT(); err == nil {
				err = k.writeTable(o.Masquerade)
			}
		}
	}
	if err == nil {
		return nil
	}
	return fmt.Errorf("changing nftables table %s: %w%s", topology.Table, err, missing(err))
}

// lacksNFT returns an error, errNoNFT, if nfnetlink is there without nf_tables. It would answer a whole transaction
// with a single error (nfnetlink_rcv_batch), and google/nftables would wait for one to each message
// forever.
func (k *Kernel) lacksNFT() error {
	if k.masquerade != nil {
		return nil
	}
	_, err := k.generation()
	return err
}

// missing explains what a kernel lacks that refuses our table.
func missing(err error) string {
	switch {
	case errors.Is(err, errNoNFT):
		return ""
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EAFNOSUPPORT):
		return " (the nf_tables of this kernel have no inet family: take a kernel built with CONFIG_NF_TABLES_INET)"
	case errors.Is(err, unix.ENOENT):
		return " (if it stays so, the nf_tables of this kernel have no NAT in inet tables, which came with Linux 5.2: load the modules nft_chain_nat and nft_masq)"
	}
	return permission(err)
}

func permission(err error) string {
	if errors.Is(err, unix.EPERM) {
		return " (the agent needs CAP_NET_ADMIN, and another program may own the table)"
	}
	return ""
}

// Constants of linux/netfilter/nf_tables.h that x/sys/unix lacks.
const (
	nftGetRule       = unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETRULE
	nftGetSet        = unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETSET
	nftNewGeneration = unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWGEN
	nftGetGeneration = unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETGEN
)

// A setShape has the properties of a set that google/nftables leaves out or interprets.
type setShape struct {
	flags   uint32 // NFT_SET_*
	size    uint32 // the most elements, 0: no limit
	timeout bool   // elements expire
}

// shapes reads the properties of our table's sets, by name.
func (k *Kernel) shapes() (map[string]setShape, error) {
	all := map[string]setShape{}
	err := k.dumpTable(nftGetSet, func(attributes []byte) {
		all[unix.ByteSliceToString(attribute(attributes, unix.NFTA_SET_NAME))] = setShape{
			flags:   bigEndian(attribute(attributes, unix.NFTA_SET_FLAGS)),
			size:    bigEndian(attribute(attribute(attributes, unix.NFTA_SET_DESC), unix.NFTA_SET_DESC_SIZE)),
			timeout: attribute(attributes, unix.NFTA_SET_TIMEOUT) != nil,
		}
	})
	return all, err
}

// sameShapes reports whether the sets that the table needs have the properties of ours: no limits
// and no timeouts.
func sameShapes(m *topology.Masquerade, have map[string]setShape) bool {
	for _, f := range families {
		for _, set := range f.sets(m) {
			want := setShape{}
			if set.Interval {
				want.flags = unix.NFT_SET_INTERVAL
			}
			if have[set.Name] != want {
				return false
			}
		}
	}
	return true
}

// expressions counts the expressions of our table's rules, by the rules' handles. google/nftables
// leaves out those that it does not support, so a rule with such a condition would count as ours.
func (k *Kernel) expressions() (map[uint64]int, error) {
	counts := map[uint64]int{}
	err := k.dumpTable(nftGetRule, func(attributes []byte) {
		n := 0
		eachAttribute(attribute(attributes, unix.NFTA_RULE_EXPRESSIONS), func(uint16, []byte) { n++ })
		if handle := attribute(attributes, unix.NFTA_RULE_HANDLE); len(handle) == 8 {
			counts[binary.BigEndian.Uint64(handle)] = n
		}
	})
	return counts, err
}

// nfgenmsg is the size of struct nfgenmsg, which precedes the attributes of netfilter's messages.
const nfgenmsg = 4

// dumpTable calls f with the attributes of each rule or set of our table. Attribute 1 of all of
// them is the table's name.
func (k *Kernel) dumpTable(ask uint16, f func(attributes []byte)) error {
	data := []byte{unix.NFPROTO_INET, unix.NFNETLINK_V0, 0, 0}
	data = appendAttribute(data, unix.NFTA_TABLE_NAME, append([]byte(topology.Table), make([]byte, 4-len(topology.Table)%4)...))
	err := k.nfnetlink.dump(ask, data, func(_ uint16, data []byte) {
		f(data[min(len(data), nfgenmsg):])
	})
	if err != nil {
		return fmt.Errorf("dumping it: %w", err)
	}
	return nil
}

func bigEndian(b []byte) uint32 {
	if len(b) != 4 {
		return 0
	}
	return binary.BigEndian.Uint32(b)
}

// generation returns the number of nftables' ruleset in this network namespace, which each
// transaction of any program increments.
func (k *Kernel) generation() (uint32, error) {
	generation := uint32(0)
	ask := request{kind: nftGetGeneration, data: []byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, 0}}
	err := k.nfnetlink.read(ask, func(kind uint16, data []byte) {
		if kind == nftNewGeneration {
			generation = parseGeneration(data)
		}
	})
	if err != nil {
		return 0, fmt.Errorf("asking for the ruleset's generation: %w", withoutNFT(err))
	}
	return generation, nil
}

// parseGeneration parses struct nfgenmsg and its attributes. For a broken message it returns 0.
func parseGeneration(b []byte) uint32 {
	return bigEndian(attribute(b[min(len(b), nfgenmsg):], unix.NFTA_GEN_ID))
}

// whole repeats a read of several dumps until no transaction came between them, because they would
// belong to different rulesets. google/nftables ignores the kernel's flag for that
// (NLM_F_DUMP_INTR).
func whole(generation func() (uint32, error), read func() error) error {
	_, err := RetryDump(func() (before uint32, err error) {
		if before, err = generation(); err != nil {
			return before, err
		}
		errRead := read()
		if after, err := generation(); err != nil || after != before {
			return after, cmp.Or[error](err, rtnl.ErrDumpInterrupted)
		}
		return before, errRead
	})
	return err
}
