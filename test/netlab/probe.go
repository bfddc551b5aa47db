package netlab

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"time"
)

// Reply is the answer to a probe.
type Reply struct {
	// Source is the source address of the packets, as their receiver saw it.
	Source netip.Addr
	// RTT is the time from the first packet to the answer.
	RTT time.Duration
}

// Question is the datagram of UDP.
const Question = "who am I?"

// TCP connects to a host's echo server from inside the namespace.
func (n *Namespace) TCP(ctx context.Context, to netip.Addr) (Reply, error) {
	return n.ask(ctx, "tcp", to)
}

// UDP sends one datagram to a host's echo server. It is not repeated, because none may get lost on this LAN.
func (n *Namespace) UDP(ctx context.Context, to netip.Addr) (Reply, error) {
	return n.ask(ctx, "udp", to)
}

func (n *Namespace) ask(ctx context.Context, network string, to netip.Addr) (Reply, error) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	start := time.Now()
	conn, err := n.Dial(ctx, network, netip.AddrPortFrom(to, echoPort))
	if err != nil {
		return Reply{}, err
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return Reply{}, fmt.Errorf("limiting the wait for %s: %w", to, err)
		}
	}
	if network == "udp" {
		if _, err := io.WriteString(conn, Question); err != nil {
			return Reply{}, fmt.Errorf("sending to %s from %s: %w", to, n.Name, err)
		}
	}
	source, err := readSource(conn)
	if err != nil {
		return Reply{}, fmt.Errorf("asking %s from %s over %s: %w", to, n.Name, network, err)
	}
	return Reply{Source: source, RTT: time.Since(start)}, nil
}

// readSource reads the one answer, which fits any packet.
func readSource(from io.Reader) (netip.Addr, error) {
	answer := make([]byte, 128)
	size, err := from.Read(answer)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("reading the answer: %w", err)
	}
	source, err := netip.ParseAddr(string(answer[:size]))
	if err != nil {
		return netip.Addr{}, fmt.Errorf("understanding the answer: %w", err)
	}
	return source, nil
}
