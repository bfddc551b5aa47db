package cni

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/plainroute/plainroute/pkg/topology"
)

// Leases returns the addresses that host-local has given to pods of this host: it
// keeps a file named by each (plugins/ipam/host-local of containernetworking). A
// folder that can't be read has none: that is no reason to leave routes alone.
func (s Store) Leases() []netip.Addr {
	entries, err := os.ReadDir(s.leaseDir())
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

func (s Store) leaseDir() string {
	return filepath.Join(s.RunDir, topology.IPAMDir, topology.Network)
}

// A Holder is whom host-local has leased an address to: a container, and the name of its device.
type Holder struct {
	Container, Device string
}

// Holder reads whom an address is leased to. host-local writes the container's ID and the device
// in a line each, which "\r\n" parts (backend/disk of its sources). There is none without both.
func (s Store) Holder(addr netip.Addr) (Holder, bool) {
	b, err := os.ReadFile(filepath.Join(s.leaseDir(), addr.String()))
	if err != nil {
		return Holder{}, false
	}
	container, device, _ := strings.Cut(string(b), "\n")
	h := Holder{strings.TrimSpace(container), strings.TrimSpace(device)}
	return h, h.Container != "" && h.Device != ""
}
