package topology

import (
	"cmp"
	"net/netip"
)

// Device is the pods' bridge, or the port of a pod. It is comparable with ==.
type Device struct {
	Name   string `json:"name"`
	Master string `json:"master,omitempty"` // the bridge that a port is in; empty: none
	Up     bool   `json:"up"`               // IFF_UP
	// MAC and MTU (in bytes) are the bridge's. A changed MAC address is restored, because running
	// pods have it in their neighbor tables; a changed MTU only if it is too small for IPv6.
	MAC   string `json:"mac,omitempty"`
	MTU   int    `json:"mtu,omitempty"`
	NoARP bool   `json:"noARP,omitempty"` // IFF_NOARP of the bridge: no neighbor discovery
	// LinkLocal reports whether the bridge has an IPv6 link-local address that passed duplicate
	// address detection. Without one the kernel can't resolve the MAC address of a pod
	// (ndisc_send_ns of net/ipv6/ndisc.c).
	LinkLocal bool       `json:"linkLocal,omitempty"`
	Pod       netip.Addr `json:"pod,omitzero"`    // of the pod behind a port that is down or not in the bridge
	Known     bool       `json:"known,omitempty"` // this process itself has seen the port in the bridge
	// Duplicate is another such port whose pod has the same address; empty: none. A container of
	// another network may have given itself that address.
	Duplicate string `json:"duplicate,omitempty"`
}

// Compare orders devices by name.
func (d Device) Compare(e Device) int { return cmp.Compare(d.Name, e.Name) }

// Like reports whether a device needs no change to become another one of its name.
func (d Device) Like(e Device) bool {
	return d.Master == e.Master && d.Up == e.Up && d.LinkLocal == e.LinkLocal && d.NoARP == e.NoARP && d.MAC == e.MAC && d.MTU == e.MTU
}

// String returns the device in the syntax of ip-link(8).
func (d Device) String() string {
	s := "dev " + d.Name
	if d.Master != "" {
		s += " master " + d.Master
	}
	if d.Up {
		return s + " up"
	}
	return s + " down"
}
