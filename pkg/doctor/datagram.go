package doctor

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
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

// sendProbes sends UDP datagrams that may not be fragmented, and collects the ICMP errors of hosts
// and routers. The kernel queues those at the socket that caused them (ip(7), IP_RECVERR), so no
// capability is needed. It returns when all probes are answered, or after the timeout.
func sendProbes(ctx context.Context, probes []probe, timeout time.Duration) (map[probe]result, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	p := &prober{probes: probes, results: map[probe]result{}, own: ownAddrs()}
	defer p.close()
	if err := p.open(); err != nil {
		return nil, fmt.Errorf("opening sockets to probe peers: %w", err)
	}
	for ctx.Err() == nil && !p.done() {
		p.sendAll(ctx)
		for next := time.Now().Add(resendAfter); ctx.Err() == nil && !p.done() && time.Now().Before(next); {
			p.wait(pollMillis)
		}
	}
	return p.results, nil
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

// A prober has one socket per family.
type prober struct {
	probes  []probe
	results map[probe]result
	own     []netip.Addr
	sockets []unix.PollFd
}

func (p *prober) open() error {
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if family == unix.AF_INET6 && errors.Is(err, unix.EAFNOSUPPORT) {
			continue
		}
		if err != nil {
			return err
		}
		p.sockets = append(p.sockets, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
		// A size is tried even where a smaller one is known to be the path's.
		level, receiveErrors, discover, mode := unix.SOL_IP, unix.IP_RECVERR, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE
		if family == unix.AF_INET6 {
			level, receiveErrors, discover, mode = unix.SOL_IPV6, unix.IPV6_RECVERR, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_PROBE
		}
		if err := errors.Join(unix.SetsockoptInt(fd, level, receiveErrors, 1), unix.SetsockoptInt(fd, level, discover, mode)); err != nil {
			return err
		}
	}
	return nil
}

func (p *prober) close() {
	for _, s := range p.sockets {
		_ = unix.Close(int(s.Fd))
	}
}

func (p *prober) done() bool {
	return !slices.ContainsFunc(p.probes, func(q probe) bool { return !p.results[q].answered() })
}

func (p *prober) sendAll(ctx context.Context) {
	for i, q := range p.probes {
		if p.results[q].answered() || ctx.Err() != nil {
			continue
		}
		if err := p.send(i, q); err != nil && !p.results[q].answered() {
			p.results[q] = result{err: err, local: true}
		}
	}
}

// send retries, because a socket reports an earlier datagram's error at its next call (udp(7)).
func (p *prober) send(number int, q probe) (err error) {
	header, at := 28, 0 // IPv4's 20 bytes and UDP's 8
	if q.to.Is6() {
		header, at = 48, 1
	}
	if at >= len(p.sockets) {
		return unix.EAFNOSUPPORT
	}
	payload := make([]byte, max(q.size-header, 4))
	binary.BigEndian.PutUint32(payload, uint32(number))
	for range 5 {
		err = unix.Sendto(int(p.sockets[at].Fd), payload, 0, sockaddr(q.to))
		if errors.Is(err, unix.EAGAIN) { // large packets fill the socket's buffer
			p.wait(pollMillis)
		} else {
			p.wait(0) // otherwise many answers overflow the socket's buffer
		}
		if err == nil || p.results[q].answered() {
			return nil
		}
	}
	return err
}

func sockaddr(to netip.Addr) unix.Sockaddr {
	if to.Is4() {
		return &unix.SockaddrInet4{Port: discard, Addr: to.As4()}
	}
	return &unix.SockaddrInet6{Port: discard, Addr: to.As16()}
}

// pollMillis is the time to wait for an answer at once, in milliseconds.
const pollMillis = 20

// wait reads the answers that arrive within some milliseconds.
func (p *prober) wait(milliseconds int) {
	if n, err := unix.Poll(p.sockets, milliseconds); err != nil || n <= 0 {
		return
	}
	for _, s := range p.sockets {
		for p.readError(int(s.Fd)) {
		}
		for p.readReply(int(s.Fd)) {
		}
	}
}

// readReply accepts a datagram as an answer too, because a process may listen on the port.
func (p *prober) readReply(fd int) bool {
	payload := make([]byte, 64)
	n, from, err := unix.Recvfrom(fd, payload, unix.MSG_DONTWAIT)
	if err != nil {
		return false
	}
	if q, ok := p.find(payload[:n], addressOf(from), false); ok {
		p.results[q] = result{reached: true}
	}
	return true
}

func (p *prober) readError(fd int) bool {
	payload, control := make([]byte, 64), make([]byte, 512)
	n, size, _, to, err := unix.Recvmsg(fd, payload, control, unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
	if err != nil {
		return false
	}
	messages, err := unix.ParseSocketControlMessage(control[:size])
	if err != nil {
		return true
	}
	for _, m := range messages {
		isError := m.Header.Level == unix.SOL_IP && m.Header.Type == unix.IP_RECVERR || m.Header.Level == unix.SOL_IPV6 && m.Header.Type == unix.IPV6_RECVERR
		if !isError || len(m.Data) < 16 {
			continue
		}
		got := parseError(m.Data)
		if got.reached && slices.Contains(p.own, got.sender) { // by a firewall of ours, before it left
			got = result{err: unix.EPERM, local: true}
		}
		q, ok := p.find(payload[:n], addressOf(to), errors.Is(got.err, unix.EMSGSIZE))
		if ok && !p.results[q].reached {
			p.results[q] = got
		}
	}
	return true
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

// find returns the probe of an answer: by its number in the payload, or by the address without one.
func (p *prober) find(payload []byte, to netip.Addr, large bool) (probe, bool) {
	if len(payload) >= 4 {
		if i := binary.BigEndian.Uint32(payload); i < uint32(len(p.probes)) && p.probes[i].to == to { // an int may have 32 bits
			return p.probes[i], true
		}
	}
	best, ok := probe{}, false
	for _, q := range p.probes {
		if q.to == to && (!ok || (q.size > best.size) == large) {
			best, ok = q, true
		}
	}
	return best, ok
}

func addressOf(from unix.Sockaddr) netip.Addr {
	switch s := from.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrFrom4(s.Addr)
	case *unix.SockaddrInet6:
		return netip.AddrFrom16(s.Addr)
	}
	return netip.Addr{}
}
