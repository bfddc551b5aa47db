package topology

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"fmt"
	"net"
	"net/netip"
)

// The names of our VXLAN devices, one for each family of the nodes' addresses.
const (
	Tunnel4 = "plainroute-v4"
	Tunnel6 = "plainroute-v6"
	// TunnelAlias is the mark of our VXLAN devices (IFLA_IFALIAS). A device of the same name without
	// it belongs to another program.
	TunnelAlias = "plainroute"
	KindVXLAN   = "vxlan" // IFLA_INFO_KIND
)

func tunnelName(is4 bool) string { return choose(is4, Tunnel4, Tunnel6) }

// The bytes that VXLAN adds to a packet of a pod: the inner Ethernet header, VXLAN (RFC 7348), UDP,
// and the outer IP header.
const (
	tunnelOverhead4 = 14 + 8 + 8 + 20
	tunnelOverhead6 = 14 + 8 + 8 + 40
)

func tunnelOverhead(is4 bool) int { return choose(is4, tunnelOverhead4, tunnelOverhead6) }

// Overhead returns the number of bytes that a tunnel adds at most to packets of pods with addresses
// of some subnets. It is 0 if no peer is reached by a tunnel.
func (e Encapsulation) Overhead(subnets []netip.Prefix) (most int) {
	for _, p := range subnets {
		if e.encapsulates() {
			most = max(most, tunnelOverhead(p.Addr().Is4()))
		}
	}
	return most
}

// Overhead returns the number of bytes that are added to a packet by a route of ours.
func (r Route) Overhead() int {
	if !isTunnel(r.Dev) {
		return 0
	}
	return tunnelOverhead(r.Dst.Addr().Is4())
}

// MAC is a hardware address of 48 bits. It is comparable.
type MAC [6]byte

// String returns the address as ip-link(8) does.
func (m MAC) String() string { return net.HardwareAddr(m[:]).String() }

// MarshalText implements encoding.TextMarshaler.
func (m MAC) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (m *MAC) UnmarshalText(text []byte) error {
	mac, err := net.ParseMAC(string(text))
	if err == nil && len(mac) != len(m) {
		err = fmt.Errorf("MAC address %s has not 48 bits", text)
	}
	copy(m[:], mac)
	return err
}

// Compare orders addresses by their bytes.
func (m MAC) Compare(o MAC) int { return bytes.Compare(m[:], o[:]) }

// TunnelMAC returns the MAC address of the tunnel on the node with a pod subnet. Each node computes
// those of its peers, so none has to be published. They are locally administered unicast addresses.
// That of an IPv4 subnet has its length and its address, so no two are the same:
//
//	10.244.7.0/24   02:18:0a:f4:07:00
//
// That of an IPv6 subnet is the beginning of its SHA-256. Two of 5,000 are the same with a
// probability of 2e-7.
func TunnelMAC(subnet netip.Prefix) MAC {
	const local, multicast = 2, 1 // IEEE 802, section 8.4
	if a := subnet.Addr(); a.Is4() {
		b := a.As4()
		return MAC{local, byte(subnet.Bits()), b[0], b[1], b[2], b[3]}
	}
	b := subnet.Addr().As16()
	sum := sha256.Sum256(append(b[:], byte(subnet.Bits())))
	mac := MAC(sum[:6])
	mac[0] = mac[0]&^multicast | local
	return mac
}

// TunnelAddr returns the address of the tunnel on the node with a pod subnet: the subnet's first
// address, which host-local gives to no pod. Packets from the node itself have it as source, so that
// answers take the tunnel as well.
func TunnelAddr(subnet netip.Prefix) netip.Addr { return subnet.Masked().Addr() }

// TunnelGateway returns the next hop of a route into a tunnel to a pod subnet. In IPv4 it is the
// address of the tunnel's other end. In IPv6 it is the link-local address of its MAC address (RFC
// 4291, appendix A), because the kernel refuses an on-link gateway to which another device has a
// route, such as the one that this route replaces (ip6_route_check_nh_onlink of net/ipv6/route.c).
func TunnelGateway(subnet netip.Prefix) netip.Addr {
	if subnet.Addr().Is4() {
		return TunnelAddr(subnet)
	}
	m := TunnelMAC(subnet)
	return netip.AddrFrom16([16]byte{0xfe, 0x80, 8: m[0] ^ 2, 9: m[1], 10: m[2], 11: 0xff, 12: 0xfe, 13: m[3], 14: m[4], 15: m[5]})
}

// Tunnel is a VXLAN device (RFC 7348) that carries packets to peers which are not on link. It is
// comparable.
type Tunnel struct {
	Name  string     `json:"name"`
	VNI   int        `json:"vni"`  // VXLAN network identifier, 24 bits
	Port  int        `json:"port"` // UDP, of both ends
	Local netip.Addr `json:"local"`
	MAC   MAC        `json:"mac"`
	MTU   int        `json:"mtu"` // in bytes
	Up    bool       `json:"up"`
	// Unmarked is set on a tunnel that lost its mark while the agent ran.
	Unmarked bool `json:"unmarked,omitempty"`
	// Odd has settings that differ from ours and can't be changed in place, in ip-link(8)'s syntax.
	Odd string `json:"odd,omitempty"`
}

// Compare orders tunnels by family.
func (t Tunnel) Compare(o Tunnel) int {
	return cmp.Compare(t.Local.BitLen(), o.Local.BitLen())
}

// ChangesInPlace reports whether the kernel can change the tunnel into another one. Otherwise it
// must be deleted and added again.
func (t Tunnel) ChangesInPlace(to Tunnel) bool {
	return t.Name == to.Name && t.VNI == to.VNI && t.Port == to.Port && t.Odd == to.Odd
}

// String returns the tunnel in the syntax of ip-link(8).
func (t Tunnel) String() string {
	s := fmt.Sprintf("%s address %s mtu %d type vxlan id %d local %s dstport %d nolearning", t.Name, t.MAC, t.MTU, t.VNI, t.Local, t.Port)
	if t.Odd != "" {
		s += " " + t.Odd
	}
	return s
}

// Neighbor is a permanent entry of the neighbor table, on a tunnel. It is comparable.
type Neighbor struct {
	Dev  string     `json:"dev"`
	Addr netip.Addr `json:"addr"`
	MAC  MAC        `json:"mac"`
}

// Compare orders neighbors by their key in the kernel.
func (n Neighbor) Compare(o Neighbor) int {
	return cmp.Or(n.Addr.Compare(o.Addr), cmp.Compare(n.Dev, o.Dev))
}

// String returns the neighbor in the syntax of `ip neighbor`.
func (n Neighbor) String() string {
	return fmt.Sprintf("%s lladdr %s dev %s nud permanent", n.Addr, n.MAC, n.Dev)
}

// FDBEntry is an entry of a tunnel's forwarding database: the node to which packets for a MAC
// address are sent. It is comparable.
type FDBEntry struct {
	Dev string     `json:"dev"`
	MAC MAC        `json:"mac"`
	Dst netip.Addr `json:"dst"`
}

// Compare orders entries by their key in the kernel.
func (e FDBEntry) Compare(o FDBEntry) int {
	return cmp.Or(cmp.Compare(e.Dev, o.Dev), e.MAC.Compare(o.MAC))
}

// String returns the entry in the syntax of bridge(8).
func (e FDBEntry) String() string { return fmt.Sprintf("%s dev %s dst %s", e.MAC, e.Dev, e.Dst) }
