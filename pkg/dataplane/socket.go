package dataplane

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// A socket asks the kernel by netlink(7). It numbers what it asks and takes nothing but
// answers with such a number, so an answer that was left behind is never taken for another's.
//
// It has no clock. The kernel works off what is sent, and queues all its answers, before the
// sending returns (netlink_unicast_kernel and netlink_rcv_skb of net/netlink/af_netlink.c);
// a dump goes on at each read (netlink_recvmsg). So an answer is there or it is lost, however
// late it is read, and a reader never waits. After a loss the next question goes out by a
// new socket.
//
// It is for one goroutine at a time.
type socket struct {
	namespace *namespace
	protocol  int
	fd        int    // -1: none is open
	sequence  uint32 // of the last request
	in, out   []byte
}

// A request is a message to the kernel, without its header.
type request struct {
	kind, flags uint16
	data        []byte
}

// errLost is that of a request whose answer the socket had no room for, or that was cut off.
var errLost = errors.New("the kernel's answer was lost")

// readBuffer is more than the kernel puts into one message: 32 KiB of a dump, if the reader has as
// much room (netlink_dump of net/netlink/af_netlink.c).
const readBuffer = 64 << 10

func newSocket(n *namespace, protocol int) *socket {
	return &socket{namespace: n, protocol: protocol, fd: -1}
}

// open makes the socket, if there is none.
func (s *socket) open() error {
	if s.fd >= 0 {
		return nil
	}
	if s.in == nil {
		s.in = make([]byte, readBuffer)
	}
	return s.namespace.do(func() error {
		fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, s.protocol)
		if err != nil {
			return fmt.Errorf("opening netlink: %w", err)
		}
		if err := s.options(fd); err != nil {
			return errors.Join(fmt.Errorf("opening netlink: %w", err), unix.Close(fd))
		}
		s.fd = fd
		return nil
	})
}

// options makes room for answers, which beyond the usual size takes CAP_NET_ADMIN, and has the
// kernel filter dumps of routes: else each would bring the local table, and in IPv6 the cached routes.
func (s *socket) options(fd int) error {
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer) != nil {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer); err != nil {
			return err
		}
	}
	if s.protocol != unix.NETLINK_ROUTE {
		return nil
	}
	return unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_GET_STRICT_CHK, 1)
}

func (s *socket) close() error {
	if s == nil || s.fd < 0 {
		return nil
	}
	err := unix.Close(s.fd)
	s.fd = -1
	return err
}

// acknowledge sends requests in one go. It returns what the kernel says to each: nil, its
// refusal, a unix.Errno, or errLost.
func (s *socket) acknowledge(requests []request) []error {
	answers := make([]error, len(requests))
	for i := range requests {
		requests[i].flags |= unix.NLM_F_ACK
		answers[i] = errLost
	}
	err := s.ask(requests, func(i int, m netlink.Message) bool {
		refusal, ended := end(m)
		if ended {
			answers[i] = refusal
		}
		return ended
	})
	for i := range answers {
		if err != nil && errors.Is(answers[i], errLost) {
			answers[i] = err
		}
	}
	return answers
}

// read sends a request and calls f with each message of its answer, up to the end. The answer is
// not whole if what it tells of changed meanwhile.
func (s *socket) read(r request, f func(kind uint16, data []byte)) (whole bool, err error) {
	if r.flags&unix.NLM_F_DUMP == 0 {
		r.flags |= unix.NLM_F_ACK // which ends it, as a dump ends by itself
	}
	whole = true
	var refusal error
	lost := s.ask([]request{r}, func(_ int, m netlink.Message) (ended bool) {
		whole = whole && m.Header.Flags&netlink.DumpInterrupted == 0
		if refusal, ended = end(m); !ended {
			f(uint16(m.Header.Type), m.Data)
		}
		return ended
	})
	if err := errors.Join(lost, refusal); err != nil {
		return false, err
	}
	return whole, nil
}

// end reports whether a message is the last one of an answer, and what it says.
func end(m netlink.Message) (refusal error, ended bool) {
	if m.Header.Type != netlink.Done && m.Header.Type != netlink.Error {
		return nil, false
	}
	if len(m.Data) >= 4 {
		if errno := int32(binary.NativeEndian.Uint32(m.Data)); errno < 0 {
			return unix.Errno(-errno), true
		}
	}
	return nil, true
}

// ask sends requests and calls f with what the kernel says to each, until f has said of all
// that they are answered. Else an answer is lost, and the socket with it.
func (s *socket) ask(requests []request, f func(i int, m netlink.Message) (ended bool)) error {
	if err := s.open(); err != nil {
		return err
	}
	err := s.send(requests)
	if err == nil {
		err = s.collect(len(requests), f)
	}
	if err != nil {
		return errors.Join(err, s.close())
	}
	return nil
}

// collect reads until the last n requests are answered. What has another number was left of
// an earlier question.
func (s *socket) collect(n int, f func(i int, m netlink.Message) (ended bool)) error {
	first := s.sequence - uint32(n) + 1
	for open := n; open > 0; {
		size, err := s.receive()
		if err != nil {
			return err
		}
		eachMessage(s.in[:size], func(m netlink.Message) {
			if i := m.Header.Sequence - first; i < uint32(n) && f(int(i), m) {
				open--
			}
		})
	}
	return nil
}

func (s *socket) send(requests []request) error {
	s.out = s.out[:0]
	for _, r := range requests {
		s.sequence++
		s.out = binary.NativeEndian.AppendUint32(s.out, uint32(unix.SizeofNlMsghdr+len(r.data)))
		s.out = binary.NativeEndian.AppendUint16(s.out, r.kind)
		s.out = binary.NativeEndian.AppendUint16(s.out, unix.NLM_F_REQUEST|r.flags)
		s.out = binary.NativeEndian.AppendUint32(s.out, s.sequence)
		s.out = append(s.out, 0, 0, 0, 0) // the port, which the kernel knows
		s.out = append(s.out, r.data...)
		for len(s.out)%unix.NLMSG_ALIGNTO != 0 {
			s.out = append(s.out, 0)
		}
	}
	if err := unix.Sendto(s.fd, s.out, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("asking the kernel: %w", err)
	}
	return nil
}

// receive reads what is queued next. That some answer had no room is told before those that had
// (netlink_overrun); they count all the same.
func (s *socket) receive() (int, error) {
	for {
		n, from, err := unix.Recvfrom(s.fd, s.in, unix.MSG_DONTWAIT|unix.MSG_TRUNC)
		switch {
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.ENOBUFS):
			continue
		case errors.Is(err, unix.EAGAIN), err == nil && n > len(s.in):
			return 0, errLost
		case err != nil:
			return 0, fmt.Errorf("reading the kernel's answer: %w", err)
		}
		if kernel, ok := from.(*unix.SockaddrNetlink); ok && kernel.Pid == 0 {
			return n, nil
		}
	}
}

// eachMessage takes a datagram apart. The messages are valid for as long as it is.
func eachMessage(b []byte, f func(netlink.Message)) {
	for len(b) >= unix.SizeofNlMsghdr {
		length := int(binary.NativeEndian.Uint32(b))
		if length < unix.SizeofNlMsghdr || length > len(b) {
			return
		}
		f(netlink.Message{Header: headerOf(b), Data: b[unix.SizeofNlMsghdr:length]})
		b = b[min(len(b), (length+unix.NLMSG_ALIGNTO-1)&^(unix.NLMSG_ALIGNTO-1)):]
	}
}

// headerOf reads struct nlmsghdr (linux/netlink.h).
func headerOf(b []byte) netlink.Header {
	return netlink.Header{
		Length: binary.NativeEndian.Uint32(b), Type: netlink.HeaderType(binary.NativeEndian.Uint16(b[4:])),
		Flags:    netlink.HeaderFlags(binary.NativeEndian.Uint16(b[6:])),
		Sequence: binary.NativeEndian.Uint32(b[8:]), PID: binary.NativeEndian.Uint32(b[12:]),
	}
}
