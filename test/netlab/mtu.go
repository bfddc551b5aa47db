package netlab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/test/testutil"
)

// SetMTU sets the MTU of a device, in bytes.
func (n *Namespace) SetMTU(device string, bytes int) error {
	link, err := n.link.LinkByName(device)
	if err != nil {
		return fmt.Errorf("finding %s in %s: %w", device, n.Name, err)
	}
	if err := n.link.LinkSetMTU(link, bytes); err != nil {
		return fmt.Errorf("setting the MTU of %s in %s: %w", device, n.Name, err)
	}
	return nil
}

// MTU returns the MTU of a device, in bytes.
func (n *Namespace) MTU(device string) (int, error) {
	link, err := n.link.LinkByName(device)
	if err != nil {
		return 0, fmt.Errorf("finding %s in %s: %w", device, n.Name, err)
	}
	return link.Attrs().MTU, nil
}

// PathMTU returns the largest packet that a host's echo server answers, in bytes. It sends packets that may not be
// fragmented, as large as the kernel believes the path to take, and the kernel learns from ICMP errors alone that it takes
// less.
func (n *Namespace) PathMTU(ctx context.Context, to netip.Addr) (int, error) {
	conn, err := n.Dial(ctx, "udp", netip.AddrPortFrom(to, echoPort))
	if err != nil {
		return 0, err
	}
	return answeredMTU(ctx, conn, to.Is4())
}

// AnswerMTU returns the largest packet by which the namespace can answer a datagram that a host has sent to an address of
// it, however the source of that datagram was translated on its way.
func (n *Namespace) AnswerMTU(ctx context.Context, to netip.Addr, host *Host) (int, error) {
	var here, there net.PacketConn
	err := errors.Join(
		n.Do(func() (err error) { here, err = listenUDP(ctx, to); return err }),
		host.Do(func() (err error) { there, err = listenUDP(ctx, host.Addr(to)); return err }))
	if err != nil {
		return 0, fmt.Errorf("opening sockets in %s and %s: %w", n.Name, host.Name, err)
	}
	defer there.Close()
	if _, err = there.WriteTo([]byte("hello"), here.LocalAddr()); err == nil {
		err = here.SetReadDeadline(time.Now().Add(probeTimeout))
	}
	var source net.Addr
	if err == nil {
		_, source, err = here.ReadFrom(make([]byte, 512))
	}
	if err := errors.Join(err, here.Close()); err != nil {
		return 0, fmt.Errorf("sending a datagram from %s to %s: %w", host.Name, n.Name, err)
	}
	go serveUDP(there)
	var conn net.Conn
	err = n.Do(func() (err error) {
		conn, err = (&net.Dialer{LocalAddr: here.LocalAddr()}).DialContext(ctx, "udp", source.String())
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("answering %s from %s: %w", source, n.Name, err)
	}
	return answeredMTU(ctx, conn, to.Is4())
}

func listenUDP(ctx context.Context, addr netip.Addr) (net.PacketConn, error) {
	return new(net.ListenConfig).ListenPacket(ctx, "udp", netip.AddrPortFrom(addr, 0).String())
}

// answeredMTU sends packets by a connected socket, until one as large as its path takes is answered. It closes the socket.
func answeredMTU(ctx context.Context, conn net.Conn, is4 bool) (mtu int, err error) {
	defer conn.Close()
	headers := 28 // those of IPv4 and UDP
	if !is4 {
		headers = 48
	}
	err = testutil.Poll(ctx, time.Millisecond, func() (err error) {
		if mtu, err = knownMTU(conn, is4); err == nil {
			_, err = conn.Write(make([]byte, mtu-headers))
		}
		if err == nil {
			err = conn.SetReadDeadline(time.Now().Add(time.Second / 2))
		}
		if err == nil {
			_, err = readSource(conn)
		}
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("sending packets of %d bytes to %s: %w", mtu, conn.RemoteAddr(), err)
	}
	return mtu, nil
}

// knownMTU has a connected socket fragment nothing, and returns the MTU of its path as the kernel knows it (ip(7)).
func knownMTU(conn net.Conn, is4 bool) (mtu int, err error) {
	udp, ok := conn.(*net.UDPConn)
	if !ok {
		return 0, fmt.Errorf("a socket is of another kind, %T", conn)
	}
	raw, err := udp.SyscallConn()
	if err != nil {
		return 0, err
	}
	level, discover, do, known := unix.SOL_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DO, unix.IP_MTU
	if !is4 {
		level, discover, do, known = unix.SOL_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_DO, unix.IPV6_MTU
	}
	controlErr := raw.Control(func(fd uintptr) {
		if err = unix.SetsockoptInt(int(fd), level, discover, do); err == nil {
			mtu, err = unix.GetsockoptInt(int(fd), level, known)
		}
	})
	return mtu, errors.Join(controlErr, err)
}

// Transfer sends bytes by TCP from the namespace to an address of a host, which returns them all.
func (n *Namespace) Transfer(ctx context.Context, host *Host, to netip.Addr, bytes int) error {
	var listener net.Listener
	err := host.Do(func() (err error) {
		listener, err = new(net.ListenConfig).Listen(ctx, "tcp", netip.AddrPortFrom(to, 0).String())
		return err
	})
	if err != nil {
		return fmt.Errorf("listening on %s of %s: %w", to, host.Name, err)
	}
	defer listener.Close()
	at, err := netip.ParseAddrPort(listener.Addr().String())
	if err != nil {
		return err
	}
	go returnAll(listener)
	conn, err := n.Dial(ctx, "tcp", at)
	if err != nil {
		return err
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return err
		}
	}
	go func() { _, _ = io.Copy(conn, strings.NewReader(strings.Repeat("x", bytes))) }() // what is missing does not come back
	if got, err := io.CopyN(io.Discard, conn, int64(bytes)); err != nil {
		return fmt.Errorf("%d of %d bytes came back to %s from %s: %w", got, bytes, n.Name, to, err)
	}
	return nil
}

// returnAll returns what a connection sends.
func returnAll(listener net.Listener) {
	conn, err := listener.Accept()
	if err != nil {
		return
	}
	defer conn.Close()
	_, _ = io.Copy(conn, conn) // the other end reports a failure
}
