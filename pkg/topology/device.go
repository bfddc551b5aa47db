package topology

import (
	"cmp"
	"net/netip"
)

// Device is the pods' bridge, or the port of a pod. It is comparable with ==.
type Device struct {
	Name string `json:"name"`
	// Master is the bridge that a port is in; empty: none.
	Master string `json:"master,omitempty"`
	// Up is the administrative state, IFF_UP.
	Up bool `json:"up"`
	// MAC and MTU (in bytes) are the bridge's. They are given to a new bridge. A MAC address
	// that changes later is put back, because running pods have it in their neighbor tables;
	// an MTU only if it is too small for IPv6.
	MAC string `json:"mac,omitempty"`
	MTU int    `json:"mtu,omitempty"`
	// NoARP is IFF_NOARP of the bridge: it neither asks for MAC addresses nor answers.
	NoARP bool `json:"noARP,omitempty"`
	// LinkLocal reports whether the bridge has an IPv6 link-local address that passed the check
	// for duplicates. Without one the kernel can't ask for the MAC address of a pod
	// (ndisc_send_ns of net/ipv6/ndisc.c).
	LinkLocal bool `json:"linkLocal,omitempty"`
	// Pod is an address of the pod behind a port that is down or not in the bridge; the
	// zero Addr for other devices.
	Pod netip.Addr `json:"pod,omitzero"`
	// Known reports whether this process itself has seen such a port in the bridge.
	Known bool `json:"known,omitempty"`
	// Rival is another such port whose pod has the same address; empty: there is none.
	// A container of another network may have given itself that address.
	Rival string `json:"rival,omitempty"`
}

// Compare orders devices by name.
func (d Device) Compare(e Device) int { return cmp.Compare(d.Name, e.Name) }

// Like reports whether two devices of one name need no change to become the same.
func (d Device) Like(e Device) bool {
	return d.Master == e.Master && d.Up == e.Up && d.LinkLocal == e.LinkLocal && d.NoARP == e.NoARP && d.MAC == e.MAC && d.MTU == e.MTU
}

// String gives the device as `ip link set` of ip-link(8) takes it.
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
