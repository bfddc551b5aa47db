package cluster

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"time"
)

// Sighting is what a probe brought back.
type Sighting struct {
	// Source is where the packets came from, in the eyes of who received them.
	Source netip.Addr
	// RTT is the time from the first packet to the answer.
	RTT time.Duration
}

// TCP connects to a host's echo server from inside the namespace.
func (n *Namespace) TCP(ctx context.Context, to netip.Addr) (Sighting, error) {
	return n.ask(ctx, "tcp", to)
}

// UDP sends one datagram to a host's echo server. It isn't repeated: on a wire of our own none may get lost.
func (n *Namespace) UDP(ctx context.Context, to netip.Addr) (Sighting, error) {
	return n.ask(ctx, "udp", to)
}

func (n *Namespace) ask(ctx context.Context, network string, to netip.Addr) (Sighting, error) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	start := time.Now()
	conn, err := n.Dial(ctx, network, netip.AddrPortFrom(to, echoPort))
	if err != nil {
		return Sighting{}, err
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return Sighting{}, fmt.Errorf("limiting the wait for %s: %w", to, err)
		}
	}
	if network == "udp" {
		if _, err := io.WriteString(conn, "who am I?"); err != nil {
			return Sighting{}, fmt.Errorf("sending to %s from %s: %w", to, n.Name, err)
		}
	}
	source, err := readSource(conn)
	if err != nil {
		return Sighting{}, fmt.Errorf("asking %s from %s over %s: %w", to, n.Name, network, err)
	}
	return Sighting{Source: source, RTT: time.Since(start)}, nil
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
