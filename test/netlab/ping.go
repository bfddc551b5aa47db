package netlab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// Protocol numbers of ICMP and ICMPv6 (IANA), by which icmp.ParseMessage chooses the format.
const (
	protocolICMP   = 1
	protocolICMPv6 = 58
)

// echo is a raw ICMP socket in a namespace, for packets to and from one address.
type echo struct {
	conn *icmp.PacketConn
	to   netip.Addr
	id   int
}

// openEcho opens the socket in the namespace; it may be used from any goroutine afterwards.
func (n *Namespace) openEcho(to netip.Addr) (*echo, error) {
	network, local := "ip4:icmp", "0.0.0.0"
	if to.Is6() {
		network, local = "ip6:ipv6-icmp", "::"
	}
	e := &echo{to: to, id: int(n.lastEcho.Add(1) & 0xffff)}
	err := n.Do(func() (err error) {
		e.conn, err = icmp.ListenPacket(network, local)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("opening a raw ICMP socket in %s: %w", n.Name, err)
	}
	return e, nil
}

func (e *echo) close() { e.conn.Close() }

func (e *echo) send(seq int) error {
	var kind icmp.Type = ipv4.ICMPTypeEcho
	if e.to.Is6() {
		kind = ipv6.ICMPTypeEchoRequest
	}
	message := icmp.Message{Type: kind, Body: &icmp.Echo{ID: e.id, Seq: seq, Data: []byte("plainroute")}}
	// ICMPv6's checksum covers addresses that only the kernel has, and so the kernel fills it in.
	packet, err := message.Marshal(nil)
	if err != nil {
		return fmt.Errorf("making an echo request: %w", err)
	}
	if _, err := e.conn.WriteTo(packet, &net.IPAddr{IP: e.to.AsSlice()}); err != nil {
		return fmt.Errorf("sending an echo request to %s: %w", e.to, err)
	}
	return nil
}

// receive waits for an answer to us and returns its sequence number. At the deadline it returns
// os.ErrDeadlineExceeded.
func (e *echo) receive(deadline time.Time) (int, error) {
	if err := e.conn.SetReadDeadline(deadline); err != nil {
		return 0, fmt.Errorf("limiting the wait for %s: %w", e.to, err)
	}
	packet := make([]byte, 1500)
	for {
		size, _, err := e.conn.ReadFrom(packet)
		if err != nil {
			return 0, fmt.Errorf("waiting for an echo reply of %s: %w", e.to, err)
		}
		if seq, ours := e.parse(packet[:size]); ours {
			return seq, nil
		}
	}
}

func (e *echo) parse(packet []byte) (seq int, ours bool) {
	protocol := protocolICMP
	if e.to.Is6() {
		protocol = protocolICMPv6
	}
	message, err := icmp.ParseMessage(protocol, packet)
	if err != nil || message.Type != ipv4.ICMPTypeEchoReply && message.Type != ipv6.ICMPTypeEchoReply {
		return 0, false
	}
	body, ok := message.Body.(*icmp.Echo)
	if !ok || body.ID != e.id {
		return 0, false
	}
	return body.Seq, true
}

// Ping sends one echo request from inside the namespace and returns how long its answer took.
func (n *Namespace) Ping(ctx context.Context, to netip.Addr) (time.Duration, error) {
	e, err := n.openEcho(to)
	if err != nil {
		return 0, err
	}
	defer e.close()
	start := time.Now()
	if err := e.send(1); err != nil {
		return 0, err
	}
	deadline := start.Add(probeTimeout)
	if limit, ok := ctx.Deadline(); ok && limit.Before(deadline) {
		deadline = limit
	}
	if _, err := e.receive(deadline); errors.Is(err, os.ErrDeadlineExceeded) {
		return 0, fmt.Errorf("pinging %s from %s: no answer within %s", to, n.Name, time.Since(start).Round(time.Millisecond))
	} else if err != nil {
		return 0, err
	}
	return time.Since(start), nil
}
