package dataplane

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/mdlayher/netlink"
	rtnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A socket sends requests to the kernel by netlink(7). It numbers them and ignores all answers with
// another number, so an answer that was left unread is never taken for that of a later request.
//
// It has no deadline. The kernel handles a request and queues all its answers before sendmsg
// returns (netlink_unicast_kernel and netlink_rcv_skb of net/netlink/af_netlink.c), and continues a
// dump at each read (netlink_recvmsg). So an answer is in the queue or it is lost, however late it
// is read, and reads never wait. After a lost answer the next request uses a new socket.
//
// A socket must not be used by two goroutines at once.
type socket struct {
	namespace *namespace
	protocol  int
	fd        int
	sequence  uint32 // of the last request
	overrun   bool   // the queue was; acknowledge resets it
	in, out   []byte
}

// closed stands for the file descriptor where no socket is open.
const closed = -1

// A request is a message to the kernel, without its header.
type request struct {
	kind, flags uint16
	data        []byte // a multiple of four bytes (NLMSG_ALIGNTO)
}

// errLost is returned for a request whose answer did not fit into the socket's queue or the buffer.
var errLost = errors.New("the kernel's answer was lost")

// readBuffer is more than the kernel puts into one message: 32 KiB of a dump, if the reader has as
// much room (netlink_dump of net/netlink/af_netlink.c).
const readBuffer = 64 << 10

func newSocket(n *namespace, protocol int) *socket {
	return &socket{namespace: n, protocol: protocol, fd: closed}
}

// open opens the socket if it is closed.
func (s *socket) open() error {
	if s.fd != closed {
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

// options enlarges the queue, which needs CAP_NET_ADMIN beyond net.core.rmem_max, and makes the
// kernel filter dumps of routes by table. Otherwise each dump would include the local table and, in
// IPv6, cached routes.
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
	if s == nil || s.fd == closed {
		return nil
	}
	err := unix.Close(s.fd)
	s.fd = closed
	return err
}

// acknowledge sends requests in one sendmsg. It returns the kernel's answer to each: nil, a
// unix.Errno, or errLost.
//
// The kernel handles them in their order and answers each that it refuses, so only the last one
// asks for an acknowledgment, and a request without an answer before that one's was successful
// (netlink_rcv_skb), unless the queue was overrun.
func (s *socket) acknowledge(requests []request) []error {
	answers := make([]error, len(requests))
	if len(requests) == 0 {
		return answers
	}
	answered := make([]bool, len(requests))
	requests[len(requests)-1].flags |= unix.NLM_F_ACK
	s.overrun = false
	err := s.ask(requests, func(i int, m netlink.Message) bool {
		ended, refusal := end(m)
		if ended {
			answers[i], answered[i] = refusal, true
		}
		return ended
	})
	if err == nil && s.overrun {
		err = errLost
	}
	for i := range answers {
		if !answered[i] {
			answers[i] = err
		}
	}
	return answers
}

// read sends a request and calls f with each message of its answer. The data is valid during the
// call. If the kernel's table changed during a dump, the error is rtnl.ErrDumpInterrupted.
func (s *socket) read(r request, f func(kind uint16, data []byte)) error {
	if r.flags&unix.NLM_F_DUMP == 0 {
		r.flags |= unix.NLM_F_ACK // the acknowledgment marks the end, as NLMSG_DONE does for a dump
	}
	var refusal, interrupted error
	lost := s.ask([]request{r}, func(_ int, m netlink.Message) (ended bool) {
		if m.Header.Flags&netlink.DumpInterrupted != 0 {
			interrupted = rtnl.ErrDumpInterrupted
		}
		if ended, refusal = end(m); !ended {
			f(uint16(m.Header.Type), m.Data)
		}
		return ended
	})
	return cmp.Or(lost, refusal, interrupted)
}

// dump asks for a whole table.
func (s *socket) dump(kind uint16, data []byte, f func(kind uint16, data []byte)) error {
	return s.read(request{kind, unix.NLM_F_DUMP, data}, f)
}

// end reports whether a message is the last one of an answer, and returns the error in it.
func end(m netlink.Message) (ended bool, refusal error) {
	if m.Header.Type != netlink.Done && m.Header.Type != netlink.Error {
		return false, nil
	}
	if len(m.Data) >= 4 {
		if errno := int32(binary.NativeEndian.Uint32(m.Data)); errno < 0 {
			return true, unix.Errno(-errno)
		}
	}
	return true, nil
}

// ask sends requests and calls f with each message of their answers, until f has returned true
// for the last request. If that answer is lost, it closes the socket.
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

// collect reads the answers to the last n requests, until the last one is answered. Messages with
// another number belong to earlier requests.
func (s *socket) collect(n int, f func(i int, m netlink.Message) (ended bool)) error {
	first := s.sequence - uint32(n) + 1
	for ended := false; !ended; {
		size, err := s.receive()
		if err != nil {
			return err
		}
		eachMessage(s.in[:size], func(m netlink.Message) {
			if i := m.Header.Sequence - first; i < uint32(n) && f(int(i), m) {
				ended = ended || i == uint32(n)-1
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
		s.out = append(s.out, 0, 0, 0, 0) // the port: the kernel's
		s.out = append(s.out, r.data...)
	}
	if err := unix.Sendto(s.fd, s.out, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("asking the kernel: %w", err)
	}
	return nil
}

// receive reads the next datagram. The kernel reports an overrun of the queue before the answers
// that are in it (netlink_overrun), and those still count.
func (s *socket) receive() (int, error) {
	for {
		n, from, err := unix.Recvfrom(s.fd, s.in, unix.MSG_DONTWAIT|unix.MSG_TRUNC)
		sender, ok := from.(*unix.SockaddrNetlink)
		switch {
		case errors.Is(err, unix.ENOBUFS):
			s.overrun = true
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN), n > len(s.in):
			return 0, errLost
		case err != nil:
			return 0, fmt.Errorf("reading the kernel's answer: %w", err)
		case ok && sender.Pid == 0: // the kernel; another process may send as well
			return n, nil
		}
	}
}

// eachMessage calls f with each message of a datagram. The messages are slices of it.
func eachMessage(b []byte, f func(netlink.Message)) {
	for len(b) >= unix.SizeofNlMsghdr {
		length := int(binary.NativeEndian.Uint32(b))
		if length < unix.SizeofNlMsghdr || length > len(b) {
			return
		}
		f(netlink.Message{Data: b[unix.SizeofNlMsghdr:length], Header: netlink.Header{ // struct nlmsghdr (linux/netlink.h)
			Length: uint32(length), Type: netlink.HeaderType(binary.NativeEndian.Uint16(b[4:])),
			Flags:    netlink.HeaderFlags(binary.NativeEndian.Uint16(b[6:])),
			Sequence: binary.NativeEndian.Uint32(b[8:]), PID: binary.NativeEndian.Uint32(b[12:]),
		}})
		b = b[min(len(b), (length+unix.NLMSG_ALIGNTO-1)&^(unix.NLMSG_ALIGNTO-1)):]
	}
}
