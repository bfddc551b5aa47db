package talk

import (
	"encoding/binary"
	"fmt"
	"net"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// whoAreYou is the datagram that an Identity answers.
const whoAreYou = "who are you?"

// packet is one of a flow, in either direction. On the way back it contains how many packets of the
// flow the other side has received, so the sender can find the direction in which the missing ones
// got lost.
type packet struct {
	// flow is a random number: addresses and ports don't identify a flow, because they may be used
	// again or rewritten.
	flow, number, had uint64
}

const packetSize = 24

func (p packet) text() []byte {
	text := make([]byte, packetSize)
	for i, field := range []uint64{p.flow, p.number, p.had} {
		binary.BigEndian.PutUint64(text[8*i:], field)
	}
	return text
}

func parsePacket(text []byte) (packet, error) {
	if len(text) != packetSize {
		return packet{}, fmt.Errorf("parsing a packet of %d bytes: want %d", len(text), packetSize)
	}
	return packet{
		flow:   binary.BigEndian.Uint64(text),
		number: binary.BigEndian.Uint64(text[8:]),
		had:    binary.BigEndian.Uint64(text[16:]),
	}, nil
}

// datagrams is a UDP socket on all addresses of one family that answers from the very address that was asked: on a
// node, the kernel would choose the bridge's towards a pod, and the pod could not identify the node.
type datagrams interface {
	receive(text []byte) (size int, from, at net.Addr, err error)
	answer(text []byte, to, from net.Addr) error
	Close() error
}

type datagrams4 struct{ *ipv4.PacketConn }

func (d datagrams4) receive(text []byte) (size int, from, at net.Addr, err error) {
	size, control, from, err := d.ReadFrom(text)
	if err != nil {
		return 0, nil, nil, err
	}
	return size, from, &net.IPAddr{IP: control.Dst}, nil
}

func (d datagrams4) answer(text []byte, to, from net.Addr) error {
	_, err := d.WriteTo(text, &ipv4.ControlMessage{Src: ip(from)}, to)
	return err
}

type datagrams6 struct{ *ipv6.PacketConn }

func (d datagrams6) receive(text []byte) (size int, from, at net.Addr, err error) {
	size, control, from, err := d.ReadFrom(text)
	if err != nil {
		return 0, nil, nil, err
	}
	return size, from, &net.IPAddr{IP: control.Dst}, nil
}

func (d datagrams6) answer(text []byte, to, from net.Addr) error {
	_, err := d.WriteTo(text, &ipv6.ControlMessage{Src: ip(from)}, to)
	return err
}

func ip(address net.Addr) net.IP {
	if address, ok := address.(*net.IPAddr); ok {
		return address.IP
	}
	return nil
}
