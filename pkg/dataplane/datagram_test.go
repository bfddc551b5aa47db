package dataplane

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	rtnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/topology"
)

// A datagram is what the pod sends, or this host itself by one of its links, or another machine in a
// VXLAN packet from outer. It is of UDP, or of ICMPv6 with a type, and has the port in the four bytes
// that come after the checksum.
type datagram struct {
	src, dst, by string
	icmp         byte
	outer        string
	vni          int  // 0: ours
	fragmented   bool // the outer packet, of IPv6, is sent in two parts
}

const (
	firstPort = 40000 // the source port of the first datagram; each has one of its own, as conntrack remembers
	toPort    = 30000
)

// listen opens a tap of all links, and sockets for what comes to this host. The thread stays on one
// CPU, so that the kernel handles packets in the order in which they are sent.
func (m *packetMachine) listen() {
	m.t.Helper()
	var all, one unix.CPUSet
	m.must(unix.SchedGetaffinity(0, &all))
	for cpu := 0; one.Count() == 0; cpu++ {
		if all.IsSet(cpu) {
			one.Set(cpu)
		}
	}
	m.must(unix.SchedSetaffinity(0, &one))
	m.tap = m.socket(unix.AF_PACKET, int(htons(unix.ETH_P_ALL)))
	for i, at := range []unix.Sockaddr{&unix.SockaddrInet4{Port: toPort}, &unix.SockaddrInet6{Port: toPort}} {
		m.here[i] = m.socket([]int{unix.AF_INET, unix.AF_INET6}[i], 0)
		if i > 0 {
			m.must(unix.SetsockoptInt(m.here[i], unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1))
		}
		m.must(unix.Bind(m.here[i], at))
	}
}

func (m *packetMachine) socket(family, protocol int) int {
	m.t.Helper()
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol)
	m.must(err)
	m.t.Cleanup(func() { m.must(unix.Close(fd)) })
	return fd
}

func htons(v uint16) uint16 { return v<<8 | v>>8 }

// send returns how a datagram comes out: its source, and the link or this host; "" if it does not.
// A changed source port is reported; if an address was changed and the port was not, another port
// may show that this was chance.
func (m *packetMachine) send(d datagram) string {
	m.t.Helper()
	out := m.once(d)
	if out != "" && !strings.HasPrefix(out, d.src+" ") && !strings.Contains(out, "another port") {
		out = m.once(d)
	}
	return out
}

func (m *packetMachine) once(d datagram) string {
	m.t.Helper()
	payload, port := fmt.Sprintf("datagram %d", m.sent), firstPort+m.sent
	m.sent++
	m.inject(d, port, payload)
	after := datagram{src: pod4, dst: "10.128.1.9"}
	if d.outer != "" {
		after = fromPeer(netip.MustParseAddr(d.outer).Is4())
	}
	m.inject(after, port, "after "+payload)
	var outs []string
	for ended := false; !ended; {
		packet, from := m.await()
		name := m.links.name(from.Ifindex)
		src, srcPort, data, ok := parseDatagram(packet)
		if !ok || from.Pkttype != unix.PACKET_OUTGOING || name != "eth0" && name != "eth1" && name != topology.Bridge {
			continue
		}
		if data == payload {
			outs = append(outs, cameOut(src, srcPort == port, "by "+name))
		}
		ended = data == "after "+payload
	}
	for _, fd := range m.here {
		b := make([]byte, 2000)
		for {
			n, from, err := unix.Recvfrom(fd, b, 0)
			if errors.Is(err, unix.EAGAIN) {
				break
			}
			m.must(err)
			if src, srcPort := sockaddr(from); string(b[:n]) == payload {
				outs = append(outs, cameOut(src, srcPort == port, "to this host"))
			}
		}
	}
	return strings.Join(outs, " and ")
}

func cameOut(src netip.Addr, samePort bool, how string) string {
	if !samePort {
		how += ", of another port"
	}
	return src.String() + " " + how
}

func sockaddr(s unix.Sockaddr) (netip.Addr, int) {
	switch s := s.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrFrom4(s.Addr), s.Port
	case *unix.SockaddrInet6:
		return netip.AddrFrom16(s.Addr), s.Port
	}
	return netip.Addr{}, 0
}

// await returns the next packet of the tap.
func (m *packetMachine) await() ([]byte, *unix.SockaddrLinklayer) {
	m.t.Helper()
	poll := []unix.PollFd{{Fd: int32(m.tap), Events: unix.POLLIN}}
	b := make([]byte, 2000)
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); {
		if _, err := unix.Poll(poll, 1000); err != nil && !errors.Is(err, unix.EINTR) {
			m.t.Fatal(err)
		}
		n, from, err := unix.Recvfrom(m.tap, b, 0)
		if link, ok := from.(*unix.SockaddrLinklayer); err == nil && ok {
			return b[:n], link
		}
	}
	m.t.Fatal("the datagram that comes after does not come out")
	return nil, nil
}

// inject has the pod's end of its port send a datagram to the bridge, or a socket of this host send
// it by a link.
func (m *packetMachine) inject(d datagram, port int, payload string) {
	m.t.Helper()
	src, dst := netip.MustParseAddr(d.src), netip.MustParseAddr(d.dst)
	if d.by != "" {
		m.injectHere(d.by, netip.AddrPortFrom(src, uint16(port)), dst, payload)
		return
	}
	packet := encodeDatagram(src, dst, d.icmp, port, payload)
	if d.outer == "" {
		m.sendFrame("pod-peer", m.link(topology.Bridge), packet)
		return
	}
	outer, local, dev := netip.MustParseAddr(d.outer), "192.168.1.11", topology.Tunnel4
	if outer.Is6() {
		local, dev = "fd00:192:168:1::11", topology.Tunnel6
	}
	vni := uint32(cmp.Or(d.vni, 112))
	if d.vni != 0 {
		dev = otherVXLAN
	}
	frame := append(append([]byte{}, m.link(dev).Attrs().HardwareAddr...), 2, 0, 0, 0, 0, 2)
	frame = append(binary.BigEndian.AppendUint16(frame, etherType(dst)), packet...)
	header := binary.BigEndian.AppendUint32([]byte{8, 0, 0, 0}, vni<<8) // RFC 7348, section 5
	whole := encodeUDP(outer, netip.MustParseAddr(local), port, 4789, string(append(header, frame...)))
	if !d.fragmented {
		m.sendFrame("eth0-peer", m.eth0, whole)
		return
	}
	const ip, udp = 40, 8
	for _, part := range [][]byte{fragment(whole, port, 0, whole[ip:][:udp], true), fragment(whole, port, udp, whole[ip+udp:], false)} {
		m.sendFrame("eth0-peer", m.eth0, part)
	}
}

// fragment makes a part of an IPv6 packet (RFC 8200, section 4.5).
func fragment(whole []byte, id, offset int, part []byte, more bool) []byte {
	b := slices.Clone(whole[:40])
	b[5], b[6] = byte(8+len(part)), unix.IPPROTO_FRAGMENT
	at := uint16(offset)
	if more {
		at |= 1
	}
	b = binary.BigEndian.AppendUint16(append(b, unix.IPPROTO_UDP, 0), at)
	return append(binary.BigEndian.AppendUint32(b, uint32(id)), part...)
}

// fromPeer is what a peer's tunnel sends to the pod.
func fromPeer(is4 bool) datagram {
	if is4 {
		return datagram{src: "10.128.1.9", dst: pod4, outer: "192.168.1.12"}
	}
	return datagram{src: "fd01:0:0:1::9", dst: pod6, outer: "fd00:192:168:1::12"}
}

// sendFrame sends a packet by one end of a veth to the address of the link behind the other.
func (m *packetMachine) sendFrame(dev string, link rtnl.Link, packet []byte) {
	m.t.Helper()
	to := &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_IP), Ifindex: m.link(dev).Attrs().Index, Halen: 6}
	if packet[0]>>4 == 6 {
		to.Protocol = htons(unix.ETH_P_IPV6)
	}
	copy(to.Addr[:], link.Attrs().HardwareAddr)
	m.must(unix.Sendto(m.tap, packet, 0, to))
}

func etherType(addr netip.Addr) uint16 {
	if addr.Is6() {
		return unix.ETH_P_IPV6
	}
	return unix.ETH_P_IP
}

func (m *packetMachine) injectHere(dev string, src netip.AddrPort, dst netip.Addr, payload string) {
	m.t.Helper()
	family, from, to := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Port: int(src.Port()), Addr: src.Addr().As16()}),
		unix.Sockaddr(&unix.SockaddrInet6{Port: toPort, Addr: dst.As16()})
	if dst.Is4() {
		family, from = unix.AF_INET, &unix.SockaddrInet4{Port: int(src.Port()), Addr: src.Addr().As4()}
		to = &unix.SockaddrInet4{Port: toPort, Addr: dst.As4()}
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	m.must(err)
	defer unix.Close(fd)
	m.must(unix.BindToDevice(fd, dev))
	m.must(unix.Bind(fd, from))
	m.must(unix.Sendto(fd, []byte(payload), 0, to))
}

// encodeDatagram makes an IP packet of UDP or ICMPv6 (RFC 791, 8200, 768, 4443).
func encodeDatagram(src, dst netip.Addr, icmp byte, port int, payload string) []byte {
	if icmp != 0 {
		return encodeICMP(src, dst, icmp, port, payload)
	}
	return encodeUDP(src, dst, port, toPort, payload)
}

func encodeUDP(src, dst netip.Addr, from, to int, payload string) []byte {
	udp := binary.BigEndian.AppendUint16(nil, uint16(from))
	udp = binary.BigEndian.AppendUint16(udp, uint16(to))
	udp = binary.BigEndian.AppendUint16(udp, uint16(8+len(payload)))
	udp = append(udp, 0, 0)
	udp = append(udp, payload...)
	pseudo := append(append(src.AsSlice(), dst.AsSlice()...), 0, unix.IPPROTO_UDP, 0, byte(len(udp)))
	binary.BigEndian.PutUint16(udp[6:], checksum(append(pseudo, udp...)))
	if dst.Is6() {
		ip := []byte{0x60, 0, 0, 0, 0, byte(len(udp)), unix.IPPROTO_UDP, 64}
		return append(append(append(ip, src.AsSlice()...), dst.AsSlice()...), udp...)
	}
	ip := []byte{0x45, 0, 0, byte(20 + len(udp)), 0, 0, 0, 0, 64, unix.IPPROTO_UDP, 0, 0}
	ip = append(append(ip, src.AsSlice()...), dst.AsSlice()...)
	binary.BigEndian.PutUint16(ip[10:], checksum(ip))
	return append(ip, udp...)
}

func encodeICMP(src, dst netip.Addr, kind byte, port int, payload string) []byte {
	message := binary.BigEndian.AppendUint16([]byte{kind, 0, 0, 0}, uint16(port))
	message = append(append(message, 0, 0), payload...)
	pseudo := append(append(src.AsSlice(), dst.AsSlice()...), 0, unix.IPPROTO_ICMPV6, 0, byte(len(message)))
	binary.BigEndian.PutUint16(message[2:], checksum(append(pseudo, message...)))
	ip := []byte{0x60, 0, 0, 0, 0, byte(len(message)), unix.IPPROTO_ICMPV6, 64}
	return append(append(append(ip, src.AsSlice()...), dst.AsSlice()...), message...)
}

// checksum is that of RFC 1071.
func checksum(b []byte) uint16 {
	sum := uint32(0)
	for i, x := range b {
		sum += uint32(x) << (8 * (1 - i%2))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// parseDatagram is the opposite of encodeDatagram.
func parseDatagram(b []byte) (src netip.Addr, port int, payload string, ok bool) {
	header, at, size, protocol := 20, 12, 4, 9
	if len(b) > 0 && b[0]>>4 == 6 {
		header, at, size, protocol = 40, 8, 16, 6
	}
	if len(b) < header+8 || b[protocol] != unix.IPPROTO_UDP && b[protocol] != unix.IPPROTO_ICMPV6 {
		return src, 0, "", false
	}
	src, ok = netip.AddrFromSlice(b[at : at+size])
	portAt := header
	if b[protocol] == unix.IPPROTO_ICMPV6 {
		portAt += 4
	}
	return src, int(binary.BigEndian.Uint16(b[portAt:])), string(b[header+8:]), ok
}
