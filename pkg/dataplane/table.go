package dataplane

import (
	"errors"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/topology"
)

// errNoNFT is returned where the kernel has no nf_tables: no such netlink family, or nfnetlink
// without it. A module may bring it later.
var errNoNFT = errors.New("this kernel has no nf_tables (load the module nf_tables, or take a kernel built with CONFIG_NF_TABLES and CONFIG_NF_TABLES_INET)")

// withoutNFT marks the errors that a kernel without nf_tables gives: EPROTONOSUPPORT for the socket
// (netlink_create of net/netlink/af_netlink.c), EINVAL for a request to a part of nfnetlink that is
// missing (nfnetlink_rcv_msg of net/netfilter/nfnetlink.c).
func withoutNFT(err error) error {
	if errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("%w: %w", errNoNFT, err)
	}
	return err
}

// openNFT opens what our table is read, written and heard of by, as far as that is not open.
// Notifications come first, so that no change falls between.
func (k *Kernel) openNFT() error {
	if k.nftEvents == nil {
		if err := k.hearNFT(); err != nil {
			return withoutNFT(err)
		}
	}
	if k.nft == nil {
		return withoutNFT(k.dialNFT())
	}
	return nil
}

// hearNFT subscribes to notifications, which Watch picks up even if it runs already.
func (k *Kernel) hearNFT() error {
	return k.namespace.do(func() error {
		c, err := listenTo(unix.NETLINK_NETFILTER, unix.NFNLGRP_NFTABLES)
		if err != nil {
			return err
		}
		k.nftEvents = c
		k.hears <- c
		return nil
	})
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
		// Without CAP_NET_ADMIN some groups are closed. That is no reason to end:
		// Observe meets the same refusal and says it where operators look.
		if err := c.JoinGroup(group); err != nil && !errors.Is(err, unix.EPERM) {
			return nil, errors.Join(fmt.Errorf("joining notifications %d: %w", group, err), c.Close())
		}
	}
	return c, nil
}

// loadTable reads our table. A kernel without nf_tables has none, and says why when it is to be
// written. After any other failure the table is taken to be what it was, and is read again by the next
// pass.
func (k *Kernel) loadTable() {
	table, err := k.wholeTable()
	if err != nil && !errors.Is(err, errNoNFT) {
		k.unread = fmt.Errorf("reading nftables table %s: %w%s", topology.Table, err, permission(err))
		return
	}
	k.masquerade, k.unread, k.fresh.masquerade = table, nil, true
	k.cover(table)
}

func (k *Kernel) wholeTable() (table *topology.Masquerade, err error) {
	if err := k.openNFT(); err != nil {
		return nil, err
	}
	err = whole(k.generation, func() (err error) {
		table, err = k.readMasquerade()
		return err
	})
	return table, err
}

// changeTable calls change, which changes our table in a transaction, unless there is nothing to
// change, and says what a bare errno of it does not.
func (k *Kernel) changeTable(needed bool, change func() error) error {
	if !needed {
		return nil
	}
	err := k.openNFT()
	if err == nil {
		err = change()
	}
	if err == nil {
		return nil
	}
	return fmt.Errorf("changing nftables table %s: %w%s", topology.Table, err, missing(err))
}

// missing says what a kernel lacks that refuses our table.
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
		return " (the agent needs CAP_NET_ADMIN, and nobody else may hold the table)"
	}
	return ""
}
