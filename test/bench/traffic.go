package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/test/netlab"
	"github.com/plainroute/plainroute/test/nodelab"
	"github.com/plainroute/plainroute/test/testutil"
)

const (
	// warmUp is the part of a measurement that does not count: windows of TCP are still small.
	warmUp = 200 * time.Millisecond
	// chunk is the size of one read or write of a stream, as large as iperf3's.
	chunk = 128 << 10
	// packetSize is the payload of small packets, and batch how many one system call sends or receives.
	packetSize, batch = 64, 64
	// receiveRoom holds some thousand packets, so that a receiver which waits for a core loses few.
	receiveRoom = 4 << 20
)

// cpuTime is what this process has used, which sends, receives, and runs most of the kernel's work for
// its packets.
func cpuTime() time.Duration {
	var used unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &used)
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// rates are how much of what is counted comes in a second, once it flows, and in a second of CPU time.
func rates(ctx context.Context, count *atomic.Int64, length time.Duration, unit float64) ([]float64, error) {
	if err := testutil.Pause(ctx, warmUp); err != nil {
		return nil, err
	}
	before, start, used := count.Load(), time.Now(), cpuTime()
	if err := testutil.Pause(ctx, length); err != nil {
		return nil, err
	}
	n, took, busy := count.Load()-before, time.Since(start), cpuTime()-used
	if n == 0 {
		return nil, errors.New("nothing was received")
	}
	amount := float64(n) / unit
	return []float64{amount / took.Seconds(), amount / busy.Seconds()}, nil
}

// throughput returns how many gigabits so many TCP connections carry together.
func throughput(ctx context.Context, p path, streams int, length time.Duration) ([]float64, error) {
	var received atomic.Int64
	listener, err := p.serve(ctx, func(conn net.Conn) {
		buffer := make([]byte, chunk)
		for {
			n, err := conn.Read(buffer)
			received.Add(int64(n))
			if err != nil {
				return
			}
		}
	})
	if err != nil {
		return nil, err
	}
	defer listener.Close()
	var conns []net.Conn
	defer func() {
		for _, conn := range conns {
			conn.Close()
		}
	}()
	for range streams {
		conn, err := p.dial(ctx, listener.Addr())
		if err != nil {
			return nil, err
		}
		conns = append(conns, conn)
		go func() {
			buffer := make([]byte, chunk)
			for err := error(nil); err == nil; { // until it is closed
				_, err = conn.Write(buffer)
			}
		}()
	}
	const gigabit = 1e9 / 8
	return rates(ctx, &received, length, gigabit)
}

// latency returns the median and the 99th percentile of the time from a request of one byte to its
// response, in microseconds.
func latency(ctx context.Context, p path, length time.Duration) ([]float64, error) {
	listener, err := p.serve(ctx, func(conn net.Conn) {
		_, _ = io.CopyBuffer(struct{ io.Writer }{conn}, struct{ io.Reader }{conn}, make([]byte, 1))
	})
	if err != nil {
		return nil, err
	}
	defer listener.Close()
	conn, err := p.dial(ctx, listener.Addr())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	var took []float64
	for begin := time.Now(); time.Since(begin) < length && ctx.Err() == nil; {
		start := time.Now()
		if _, err := conn.Write([]byte{1}); err != nil {
			return nil, err
		}
		if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
			return nil, err
		}
		took = append(took, float64(time.Since(start).Nanoseconds())/1e3)
	}
	slices.Sort(took)
	return []float64{took[len(took)/2], took[len(took)*99/100]}, ctx.Err()
}

// packets returns how many thousand small UDP packets arrive, of one sender that sends as fast as it
// can.
func packets(ctx context.Context, p path, length time.Duration) ([]float64, error) {
	config := net.ListenConfig{Control: enlarge}
	var receiver net.PacketConn
	err := p.to.Do(func() (err error) {
		receiver, err = config.ListenPacket(ctx, "udp", netip.AddrPortFrom(p.addr, 0).String())
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("receiving at %s: %w", p.addr, err)
	}
	defer receiver.Close()
	sender, err := p.dial(ctx, receiver.LocalAddr())
	if err != nil {
		return nil, err
	}
	defer sender.Close()
	packets, ok := sender.(net.PacketConn)
	if !ok {
		return nil, fmt.Errorf("sending to %s: a %T sends no packets", p.addr, sender)
	}
	var received atomic.Int64
	go func() {
		conn, messages := ipv4.NewPacketConn(receiver), messages()
		for {
			n, err := conn.ReadBatch(messages, 0)
			if err != nil {
				return
			}
			received.Add(int64(n))
		}
	}()
	go func() {
		conn, messages := ipv4.NewPacketConn(packets), messages()
		for err := error(nil); !errors.Is(err, net.ErrClosed); {
			_, err = conn.WriteBatch(messages, 0)
		}
	}()
	return rates(ctx, &received, length, 1e3)
}

// messages returns a batch of packets. The batches of golang.org/x/net/ipv4 work for sockets of both
// families.
func messages() []ipv4.Message {
	all := make([]ipv4.Message, batch)
	for i := range all {
		all[i].Buffers = [][]byte{make([]byte, packetSize)}
	}
	return all
}

// enlarge gives a socket a queue beyond the machine's limit.
func enlarge(_, _ string, raw syscall.RawConn) error {
	var failure error
	err := raw.Control(func(fd uintptr) {
		failure = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveRoom)
	})
	return errors.Join(err, failure)
}

// serve listens on the receiving end, and has each connection handled until it is closed.
func (p path) serve(ctx context.Context, handle func(net.Conn)) (listener net.Listener, err error) {
	err = p.to.Do(func() (err error) {
		listener, err = new(net.ListenConfig).Listen(ctx, "tcp", netip.AddrPortFrom(p.addr, 0).String())
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listening at %s: %w", p.addr, err)
	}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				handle(conn)
			}()
		}
	}()
	return listener, nil
}

// dial connects from the sending end.
func (p path) dial(ctx context.Context, to net.Addr) (net.Conn, error) {
	at, err := netip.ParseAddrPort(to.String())
	if err != nil {
		return nil, fmt.Errorf("connecting to %s: %w", to, err)
	}
	return p.from.Dial(ctx, to.Network(), at)
}

// limitLinks makes the nodes' uplinks as slow as a network card of that many bits per second, until
// unlimit is called.
func limitLinks(nodes []*nodelab.Node, bits uint64) (unlimit func(), err error) {
	const burst, queue = 256 << 10, 1 << 20 // bytes; a packet before its segmentation has 64 KiB
	rate := bits / 8
	unlimit = func() {}
	for _, node := range nodes {
		link, err := node.Handle().LinkByName(netlab.Uplink)
		if err != nil {
			return unlimit, fmt.Errorf("finding the uplink of %s: %w", node.Name, err)
		}
		shaper := &netlink.Tbf{
			QdiscAttrs: netlink.QdiscAttrs{LinkIndex: link.Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT},
			Rate:       rate, Limit: queue, Buffer: netlink.Xmittime(rate, burst),
		}
		if err := node.Handle().QdiscReplace(shaper); err != nil {
			return unlimit, fmt.Errorf("limiting the uplink of %s: %w", node.Name, err)
		}
		others := unlimit
		unlimit = func() {
			others()
			_ = node.Handle().QdiscDel(shaper) // the next measurement would show it
		}
	}
	return unlimit, nil
}
