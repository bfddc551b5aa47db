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

// discard is the port of RFC 863. Hardly anybody listens there, so the host that a
// datagram reaches answers that the port is unreachable (RFC 1122, 4.1.3.1).
const discard = 9

// question is one IP packet of so many bytes to a host.
type question struct {
	to   netip.Addr
	size int
}

// answer is what came of a question; the zero answer: nothing did.
type answer struct {
	// reached tells that the host itself answered.
	reached bool
	// refused is who said that the packet can't get there or that nobody listens, and why.
	refused netip.Addr
	why     error
	// mtu is what the way takes at most, as whoever dropped the packet tells; local
	// tells that it was this host's own link.
	mtu   int
	local bool
}

func (a answer) came() bool { return a.reached || a.why != nil }

// again is how long an answer may take before the question is repeated: a host grants
// each other one such answer a second, after the first six (icmp(7), icmp_ratelimit).
const again = time.Second

// ask sends UDP datagrams that may not be fragmented, and collects what hosts and
// routers say to them: the kernel hands ICMP errors to the socket that caused them
// (ip(7), IP_RECVERR), so no capability is needed. It ends when all are answered or
// the patience is over.
func ask(ctx context.Context, questions []question, patience time.Duration) (map[question]answer, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	a := &asker{questions: questions, answers: map[question]answer{}, own: ownAddrs()}
	defer a.close()
	if err := a.open(); err != nil {
		return nil, fmt.Errorf("opening sockets to probe peers: %w", err)
	}
	for ctx.Err() == nil && !a.done() {
		a.sendAll(ctx)
		for next := time.Now().Add(again); ctx.Err() == nil && !a.done() && time.Now().Before(next); {
			a.wait(moment)
		}
	}
	return a.answers, nil
}

// ownAddrs are this host's; without them what a firewall of ours refuses is taken for an answer.
func ownAddrs() []netip.Addr {
	addrs, _ := net.InterfaceAddrs()
	own := make([]netip.Addr, 0, len(addrs))
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			own = append(own, p.Addr())
		}
	}
	return own
}

// asker is a socket a family.
type asker struct {
	questions []question
	answers   map[question]answer
	own       []netip.Addr
	sockets   []unix.PollFd
}

func (a *asker) open() error {
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if family == unix.AF_INET6 && errors.Is(err, unix.EAFNOSUPPORT) {
			continue
		}
		if err != nil {
			return err
		}
		a.sockets = append(a.sockets, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
		// A size is tried even where a smaller one is known to be the path's.
		if family == unix.AF_INET {
			err = errors.Join(unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_RECVERR, 1), unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE))
		} else {
			err = errors.Join(unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_RECVERR, 1), unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_PROBE))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (a *asker) close() {
	for _, s := range a.sockets {
		_ = unix.Close(int(s.Fd))
	}
}

func (a *asker) done() bool {
	for _, q := range a.questions {
		if !a.answers[q].came() {
			return false
		}
	}
	return true
}

func (a *asker) sendAll(ctx context.Context) {
	for i, q := range a.questions {
		if a.answers[q].came() {
			continue
		}
		if ctx.Err() != nil {
			return
		}
		if err := a.send(i, q); err != nil && !a.answers[q].came() {
			a.answers[q] = answer{why: err, local: true}
		}
	}
}

// send tries more than once: the error of an earlier datagram is told to the next
// call, whatever that does (udp(7)).
func (a *asker) send(number int, q question) error {
	header, at := 28, 0 // IPv4's 20 bytes and UDP's 8
	if q.to.Is6() {
		header, at = 48, 1
	}
	if at >= len(a.sockets) {
		return unix.EAFNOSUPPORT
	}
	payload := make([]byte, max(q.size-header, 4))
	binary.BigEndian.PutUint32(payload, uint32(number))
	var err error
	for range 5 {
		err = unix.Sendto(int(a.sockets[at].Fd), payload, 0, sockaddr(q.to))
		switch {
		case err == nil:
			a.wait(0) // or many answers overflow the socket's buffer
			return nil
		case errors.Is(err, unix.EAGAIN): // large packets fill the socket's buffer
			a.wait(moment)
		default:
			a.wait(0)
		}
		if a.answers[q].came() {
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

// moment is how long to wait for an answer at a time, in milliseconds.
const moment = 20

// wait reads what has come, or comes within so many milliseconds.
func (a *asker) wait(milliseconds int) {
	if n, err := unix.Poll(a.sockets, milliseconds); err != nil || n <= 0 {
		return
	}
	for _, s := range a.sockets {
		for a.readError(int(s.Fd)) {
		}
		for a.readReply(int(s.Fd)) {
		}
	}
}

// readReply takes a datagram for an answer too: somebody does listen there.
func (a *asker) readReply(fd int) bool {
	payload := make([]byte, 64)
	n, from, err := unix.Recvfrom(fd, payload, unix.MSG_DONTWAIT)
	if err != nil {
		return false
	}
	if q, ok := a.find(payload[:n], addressOf(from), false); ok {
		a.answers[q] = answer{reached: true}
	}
	return true
}

func (a *asker) readError(fd int) bool {
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
		if got.reached && slices.Contains(a.own, got.refused) { // by a firewall of ours, before it left
			got = answer{why: unix.EPERM, local: true}
		}
		q, ok := a.find(payload[:n], addressOf(to), errors.Is(got.why, unix.EMSGSIZE))
		if ok && !a.answers[q].reached {
			a.answers[q] = got
		}
	}
	return true
}

// parseError reads struct sock_extended_err and the address of who sent it
// (linux/errqueue.h).
func parseError(data []byte) answer {
	errno := unix.Errno(binary.NativeEndian.Uint32(data))
	got := answer{why: errno, local: data[4] == unix.SO_EE_ORIGIN_LOCAL}
	if errno == unix.ECONNREFUSED {
		got = answer{reached: true}
	}
	if errno == unix.EMSGSIZE {
		got.mtu = int(binary.NativeEndian.Uint32(data[8:]))
	}
	if len(data) < 18 {
		return got
	}
	switch sender := data[16:]; binary.NativeEndian.Uint16(sender) {
	case unix.AF_INET:
		got.refused, _ = netip.AddrFromSlice(cut(sender, 4, 8))
	case unix.AF_INET6:
		got.refused, _ = netip.AddrFromSlice(cut(sender, 8, 24))
	}
	return got
}

func cut(b []byte, from, to int) []byte {
	if len(b) < to {
		return nil
	}
	return b[from:to]
}

// find tells which question is answered: by its number in what comes back of it, or
// where a router sends back no more than headers, by the address.
func (a *asker) find(payload []byte, to netip.Addr, large bool) (question, bool) {
	if len(payload) >= 4 {
		if i := binary.BigEndian.Uint32(payload); i < uint32(len(a.questions)) && a.questions[i].to == to { // an int may have 32 bits
			return a.questions[i], true
		}
	}
	best, ok := question{}, false
	for _, q := range a.questions {
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
