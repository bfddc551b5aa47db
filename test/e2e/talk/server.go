package talk

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// Server answers with its identity and the client's address as it sees it, on all addresses: over
// HTTP and UDP on Port, over bare TCP on TCPPort(Port). Over HTTP it also serves the requests of
// tests: see handler.
type Server struct {
	Pod, Node string
	Port      uint16

	open  []io.Closer
	flows flows
}

// Start listens, and serves until Close.
func (s *Server) Start(ctx context.Context) error {
	for _, listen := range []func(context.Context) error{s.listenHTTP, s.listenTCP, s.listenUDP4, s.listenUDP6} {
		if err := listen(ctx); err != nil {
			s.Close()
			return fmt.Errorf("serving on port %d: %w", s.Port, err)
		}
	}
	return nil
}

// Close ends everything that Start began.
func (s *Server) Close() {
	s.flows.stop()
	for _, one := range s.open {
		one.Close()
	}
}

func (s *Server) identity(from net.Addr) []byte {
	seen, err := netip.ParseAddrPort(from.String())
	if err != nil {
		return fmt.Appendf(nil, "parsing %s: %s", from, err)
	}
	text, err := json.Marshal(Identity{Pod: s.Pod, Node: s.Node, Seen: seen.Addr().Unmap().WithZone("")})
	if err != nil {
		return []byte(err.Error())
	}
	return text
}

func (s *Server) listenHTTP(ctx context.Context) error {
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", fmt.Sprintf(":%d", s.Port))
	if err != nil {
		return err
	}
	server := &http.Server{Handler: s.handler(), ReadHeaderTimeout: askTimeout}
	s.open = append(s.open, server)
	go func() { _ = server.Serve(listener) }()
	return nil
}

func (s *Server) listenTCP(ctx context.Context) error {
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", fmt.Sprintf(":%d", TCPPort(s.Port)))
	if err != nil {
		return err
	}
	s.open = append(s.open, listener)
	go s.serveTCP(listener)
	return nil
}

func (s *Server) serveTCP(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		// The client sees and reports a failure here.
		_, _ = conn.Write(s.identity(conn.RemoteAddr()))
		conn.Close()
	}
}

func (s *Server) listenUDP4(ctx context.Context) error {
	var config net.ListenConfig
	conn, err := config.ListenPacket(ctx, "udp4", fmt.Sprintf(":%d", s.Port))
	if err != nil {
		return err
	}
	s.open = append(s.open, conn)
	conn4 := ipv4.NewPacketConn(conn)
	if err := conn4.SetControlMessage(ipv4.FlagDst, true); err != nil {
		return err
	}
	go s.serveUDP(datagrams4{conn4})
	return nil
}

func (s *Server) listenUDP6(ctx context.Context) error {
	var config net.ListenConfig
	conn, err := config.ListenPacket(ctx, "udp6", fmt.Sprintf("[::]:%d", s.Port))
	if err != nil {
		return err
	}
	s.open = append(s.open, conn)
	conn6 := ipv6.NewPacketConn(conn)
	if err := conn6.SetControlMessage(ipv6.FlagDst, true); err != nil {
		return err
	}
	go s.serveUDP(datagrams6{conn6})
	return nil
}

// serveUDP answers packets of flows, each with how many its sender has got through so far, and requests for our
// identity.
func (s *Server) serveUDP(conn datagrams) {
	had := map[uint64]uint64{}
	text := make([]byte, answerLimit)
	for {
		size, from, at, err := conn.receive(text)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue
		}
		answer := s.identity(from)
		if one, err := parsePacket(text[:size]); err == nil {
			had[one.flow]++
			one.had = had[one.flow]
			answer = one.text()
		}
		// The client counts what gets lost here.
		_ = conn.answer(answer, from, at)
	}
}
