package netlab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"
)

// echoPort is where every host answers, over TCP and UDP, with the source address that it sees.
const echoPort = 8080

// probeTimeout is above the 3 s after which the kernel gives up on a neighbor that doesn't answer.
const probeTimeout = 5 * time.Second

// servers answer on a host's addresses.
type servers struct {
	mu   sync.Mutex
	open []io.Closer
}

func (s *servers) add(server io.Closer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open = append(s.open, server)
}

func (s *servers) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, server := range s.open {
		server.Close()
	}
	s.open = nil
}

// Serve answers over TCP and UDP on each of the host's addresses. A socket an address, not one for all: an answer has
// to come from the very address that was asked, and the kernel would choose another one on a host that has several.
func (h *Host) Serve() error {
	for _, address := range h.Addrs() {
		err := h.Do(func() error { return h.listen(netip.AddrPortFrom(address, echoPort)) })
		if err != nil {
			return fmt.Errorf("serving on %s of %s: %w", address, h.Name, err)
		}
	}
	return nil
}

// ServeAgain serves on the addresses that the host has now, and not on those that it had.
func (h *Host) ServeAgain() error {
	h.servers.close()
	return h.Serve()
}

func (h *Host) listen(at netip.AddrPort) error {
	var config net.ListenConfig
	tcp, err := config.Listen(context.Background(), "tcp", at.String())
	if err != nil {
		return err
	}
	h.servers.add(tcp)
	go serveTCP(tcp)
	udp, err := config.ListenPacket(context.Background(), "udp", at.String())
	if err != nil {
		return err
	}
	h.servers.add(udp)
	go serveUDP(udp)
	return nil
}

func serveTCP(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		go answer(conn)
	}
}

func answer(conn net.Conn) {
	defer conn.Close()
	// The client sees and reports a failure here.
	_ = conn.SetDeadline(time.Now().Add(probeTimeout))
	_, _ = io.WriteString(conn, seenSource(conn.RemoteAddr()))
}

func serveUDP(conn net.PacketConn) {
	question := make([]byte, 512)
	for {
		_, from, err := conn.ReadFrom(question)
		if errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrDeadlineExceeded) {
			return
		}
		if err == nil {
			_, _ = conn.WriteTo([]byte(seenSource(from)), from)
		}
	}
}

// seenSource is the address without its port, 4-in-6 unmapped.
func seenSource(from net.Addr) string {
	source, err := netip.ParseAddrPort(from.String())
	if err != nil {
		return err.Error()
	}
	return source.Addr().Unmap().WithZone("").String()
}
