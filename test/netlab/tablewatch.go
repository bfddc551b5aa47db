package netlab

import (
	"fmt"
	"sync/atomic"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// TableWatch counts the nftables notifications of a namespace, from its creation on.
type TableWatch struct {
	conn  *netlink.Conn
	count atomic.Int64
}

// WatchTables subscribes to a namespace's nftables notifications. Close it.
func (n *Namespace) WatchTables() (*TableWatch, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: int(n.fd)})
	if err != nil {
		return nil, fmt.Errorf("opening netfilter in namespace %s: %w", n.Name, err)
	}
	if err := conn.JoinGroup(unix.NFNLGRP_NFTABLES); err != nil {
		return nil, fmt.Errorf("subscribing to the nftables of %s: %w", n.Name, err)
	}
	w := &TableWatch{conn: conn}
	go func() {
		for {
			messages, err := conn.Receive()
			if err != nil {
				return
			}
			w.count.Add(int64(len(messages)))
		}
	}()
	return w, nil
}

// Count is how many notifications came.
func (w *TableWatch) Count() int { return int(w.count.Load()) }

// Close ends the subscription.
func (w *TableWatch) Close() { _ = w.conn.Close() }
