package netlab

import (
	"net/netip"
	"slices"
)

// Host is a machine or a pod: a namespace with one address a family, answering on each (see Serve). A family that it does
// not have is the zero Addr.
type Host struct {
	*Namespace
	V4, V6 netip.Addr

	servers servers
}

// Addr is the host's address of the family of like.
func (h *Host) Addr(like netip.Addr) netip.Addr {
	if like.Is4() {
		return h.V4
	}
	return h.V6
}

// Addrs are the host's addresses, IPv4 first.
func (h *Host) Addrs() []netip.Addr {
	return slices.DeleteFunc([]netip.Addr{h.V4, h.V6}, func(a netip.Addr) bool { return !a.IsValid() })
}

// Close ends the host's servers and releases its namespace.
func (h *Host) Close() error {
	h.servers.close()
	return h.Namespace.Close()
}

// AddAddresses gives the host more addresses on the LAN, beside those that it has.
func (h *Host) AddAddresses(addresses ...netip.Addr) error {
	var prefixes []netip.Prefix
	for _, address := range addresses {
		bits := lans[0].v4.Bits()
		if address.Is6() {
			bits = lans[0].v6.Bits()
		}
		prefixes = append(prefixes, netip.PrefixFrom(address, bits))
	}
	return h.addAddresses(Uplink, prefixes...)
}
