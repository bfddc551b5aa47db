package doctor

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// discard is the port of RFC 863, where hosts answer "port unreachable" (RFC 1122, section 4.1.3.1).
const discard = 9

// A probe is one IP packet to a host.
type probe struct {
	to   netip.Addr
	size int
}

// A result is what came back for a probe; the zero result: nothing.
type result struct {
	reached bool       // the host itself answered
	sender  netip.Addr // of an ICMP error: a host or a router
	err     error      // in that ICMP error
	mtu     int        // of the path, by the router that dropped the packet
	local   bool       // the limit is that of this host's own link
}

func (r result) answered() bool { return r.reached || r.err != nil }

// resendAfter: after six, a host sends each other host one such answer a second (icmp_ratelimit).
const resendAfter = time.Second

// sendProbes sends UDP datagrams that may not be fragmented, each from a socket of its own, and
// collects the ICMP errors of hosts and routers. The kernel queues those at the socket that caused
// them (ip(7), IP_RECVERR), so no capability is needed. It returns when all probes are answered, or
// after the timeout.
func sendProbes(ctx context.Context, probes []probe, timeout time.Duration) (map[probe]result, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	pending := make(map[probe]*result, len(probes))
	var all sync.WaitGroup
	defer all.Wait()
	defer cancel()
	for _, q := range probes {
		if pending[q] != nil {
			continue // peers behind one router have the same next hop
		}
		r := new(result)
		pending[q] = r
		conn, err := q.dial(ctx)
		switch call := (*os.SyscallError)(nil); {
		case err == nil:
			err = q.send(conn) // here, because the order matters for rate limits
			all.Go(func() { *r = q.await(ctx, conn, err) })
		case ctx.Err() != nil:
		case errors.As(err, &call) && call.Syscall == "connect", errors.Is(err, unix.EAFNOSUPPORT):
			*r = localError(err)
		default:
			return nil, fmt.Errorf("opening sockets to probe peers: %w", err)
		}
	}
	all.Wait()
	own, results := ownAddrs(), make(map[probe]result, len(pending))
	for q, r := range pending {
		results[q] = *r
		if r.reached && slices.Contains(own, r.sender) { // by a firewall of ours, before it left
			results[q] = localError(unix.EPERM)
		}
	}
	return results, nil
}

// ownAddrs returns this host's addresses, because an ICMP error of our own firewall is not an answer.
func ownAddrs() []netip.Addr {
	addrs, _ := net.InterfaceAddrs()
	own := make([]netip.Addr, 0, len(addrs))
	for _, a := range addrs {
		if prefix, err := netip.ParsePrefix(a.String()); err == nil {
			own = append(own, prefix.Addr())
		}
	}
	return own
}

// dial returns a socket that gets the ICMP errors of its datagrams, and fragments none.
func (q probe) dial(ctx context.Context) (*net.UDPConn, error) {
	// A size is tried even where a smaller one is known to be the path's.
	level, receiveErrors, discover, mode := unix.SOL_IP, unix.IP_RECVERR, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE
	if q.to.Is6() {
		level, receiveErrors, discover, mode = unix.SOL_IPV6, unix.IPV6_RECVERR, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_PROBE
	}
	dialer := net.Dialer{Control: func(_, _ string, raw syscall.RawConn) error {
		var err error
		controlErr := raw.Control(func(fd uintptr) {
			err = errors.Join(unix.SetsockoptInt(int(fd), level, receiveErrors, 1), unix.SetsockoptInt(int(fd), level, discover, mode))
		})
		return errors.Join(controlErr, err)
	}}
	conn, err := dialer.DialContext(ctx, "udp", netip.AddrPortFrom(q.to, discard).String())
	udp, _ := conn.(*net.UDPConn)
	return udp, err
}

func (q probe) send(conn *net.UDPConn) error {
	header := 28 // IPv4's 20 bytes and UDP's 8
	if q.to.Is6() {
		header = 48
	}
	_, err := conn.Write(make([]byte, q.size-header))
	return err
}

// await returns the answer to a probe that was sent with an error or nil. It sends it again until then.
func (q probe) await(ctx context.Context, conn *net.UDPConn, err error) result {
	defer conn.Close()
	for end, _ := ctx.Deadline(); ; err = q.send(conn) {
		if err == nil {
			next := time.Now().Add(resendAfter)
			if end.Before(next) {
				next = end
			}
			_ = conn.SetReadDeadline(next)
			if _, err = conn.Read(make([]byte, 1)); err == nil {
				return result{reached: true} // a process listens on the port
			}
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return cmp.Or(queuedError(conn), localError(err))
		}
		if ctx.Err() != nil || !time.Now().Before(end) {
			return result{}
		}
	}
}

// localError is the result of a probe that did not leave this host.
func localError(err error) result {
	var errno unix.Errno
	if errors.As(err, &errno) {
		err = errno // without the addresses
	}
	return result{err: err, local: true}
}

// queuedError returns the first error in a socket's queue, the zero result if there is none.
func queuedError(conn *net.UDPConn) result {
	raw, err := conn.SyscallConn()
	if err != nil {
		return result{}
	}
	payload, control, size := make([]byte, 1), make([]byte, 512), 0
	controlErr := raw.Control(func(fd uintptr) {
		_, size, _, _, err = unix.Recvmsg(int(fd), payload, control, unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
	})
	if errors.Join(controlErr, err) != nil {
		return result{}
	}
	messages, _ := unix.ParseSocketControlMessage(control[:size]) // the kernel's are well-formed
	for _, m := range messages {
		isError := m.Header.Level == unix.SOL_IP && m.Header.Type == unix.IP_RECVERR || m.Header.Level == unix.SOL_IPV6 && m.Header.Type == unix.IPV6_RECVERR
		if isError && len(m.Data) >= 16 {
			return parseError(m.Data)
		}
	}
	return result{}
}

// parseError parses struct sock_extended_err and the sender's address (linux/errqueue.h).
func parseError(data []byte) result {
	errno := unix.Errno(binary.NativeEndian.Uint32(data))
	got := result{err: errno, local: data[4] == unix.SO_EE_ORIGIN_LOCAL}
	if errno == unix.ECONNREFUSED {
		got = result{reached: true}
	}
	if errno == unix.EMSGSIZE {
		got.mtu = int(binary.NativeEndian.Uint32(data[8:]))
	}
	switch sender := data[16:]; {
	case len(sender) >= 8 && binary.NativeEndian.Uint16(sender) == unix.AF_INET:
		got.sender, _ = netip.AddrFromSlice(sender[4:8])
	case len(sender) >= 24 && binary.NativeEndian.Uint16(sender) == unix.AF_INET6:
		got.sender, _ = netip.AddrFromSlice(sender[8:24])
	}
	return got
}
