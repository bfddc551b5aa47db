package cni

import (
	"net/netip"
	"os"
	"path/filepath"

	"github.com/plainroute/plainroute/pkg/topology"
)

// Leases returns the addresses that host-local has given to pods of this host: it
// keeps a file named by each (plugins/ipam/host-local of containernetworking). A
// folder that can't be read has none: that is no reason to leave routes alone.
func (s Store) Leases() []netip.Addr {
	entries, err := os.ReadDir(filepath.Join(s.RunDir, topology.IPAMDir, topology.Network))
	if err != nil {
		return nil
	}
	var addrs []netip.Addr
	for _, e := range entries {
		if addr, err := netip.ParseAddr(e.Name()); err == nil {
			addrs = append(addrs, addr)
		}
	}
	return addrs
}
