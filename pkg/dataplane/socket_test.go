package dataplane

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/plan"
	"github.com/plainroute/plainroute/pkg/topology"
)

// An unread answer is never taken for that of a later request.
func TestUnreadAnswersAreIgnored(t *testing.T) {
	m := newMachine(t)
	all := nodes(100)
	m.settle(all[:1])
	leave := func() {
		m.must(m.rtnetlink.open())
		m.must(m.rtnetlink.send([]request{
			{kind: unix.RTM_DELROUTE, flags: unix.NLM_F_ACK, data: make([]byte, unix.SizeofRtMsg)}, // is refused
			{kind: unix.RTM_GETLINK, flags: unix.NLM_F_ACK, data: []byte{0: unix.AF_UNSPEC, 4: 1, 15: 0}},
		}))
	}
	leave()
	m.applyMixed(all)
	leave()
	m.settle(all)
	leave()
	m.must(m.Apply(context.Background(), routes(plan.Delete, values(m.observe().Routes[:10])...)))
	m.settle(all)
}

// Answers wait for as long as it takes: a process that gets no CPU loses none.
func TestAnswersThatAreReadLateCount(t *testing.T) {
	m := newMachine(t)
	m.settle(nodes(1))
	requests := make([]request, perSend)
	for i := range requests {
		requests[i] = request{unix.RTM_DELROUTE, unix.NLM_F_ACK, make([]byte, unix.SizeofRtMsg)}
	}
	m.must(m.rtnetlink.open())
	m.must(m.rtnetlink.send(requests))
	m.addVeth("eth1", 1500) // the kernel has much else to do meanwhile
	answered := map[int]bool{}
	m.must(m.rtnetlink.collect(perSend, func(i int, m netlink.Message) bool {
		ended, refusal := end(m)
		answered[i] = refusal != nil
		return ended
	}))
	for i := range requests {
		if !answered[i] {
			t.Errorf("request %d has not got its answer", i)
		}
	}
}

// Answers that the socket had no room for are lost, and nothing but those: whatever is
// reported done is done, and the next question goes out by a new socket.
func TestLostAnswers(t *testing.T) {
	m := newMachine(t)
	all := nodes(3 * perSend)
	m.settle(all[:1])
	m.must(unix.SetsockoptInt(m.rtnetlink.fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 2048)) // a few answers of a hundred
	routes := plan.Objects[plan.Route](m.diff(all), plan.Add)
	fd := m.rtnetlink.fd
	for i, err := range m.send(operations[plan.Add], routes[:perSend]) { // there is one answer
		if err != nil {
			t.Errorf("adding %v: %v", routes[i], err)
		}
	}
	if m.rtnetlink.fd != fd {
		t.Error("another socket is used, although no answer was lost")
	}
	lost := 0
	for i, err := range m.send(operations[plan.Add], routes[:perSend]) { // each is refused
		if errors.Is(err, errLost) {
			lost++
		} else if !errors.Is(err, unix.EEXIST) {
			t.Errorf("adding %v again: %v", routes[i], err)
		}
	}
	if lost == 0 || lost == perSend {
		t.Fatalf("%d of %d answers were lost", lost, perSend)
	}
	if m.rtnetlink.fd != closed {
		t.Error("the socket is still used")
	}
	for i, err := range m.send(operations[plan.Add], routes[:perSend]) {
		if !errors.Is(err, unix.EEXIST) {
			t.Errorf("adding %v once more: %v", routes[i], err)
		}
	}
	m.Forget()
	m.applyMixed(all)
	m.settle(all)
}

// If the queue is full of unread answers, no request without an answer counts as
// successful.
func TestQueueFullOfUnreadAnswers(t *testing.T) {
	m := newMachine(t)
	all := nodes(perSend)
	m.settle(all)
	there := plan.Objects[plan.Route](plan.Diff(m.observe(), topology.State{}), plan.Add)
	var refused []request
	for _, r := range there {
		refused = append(refused, request{unix.RTM_NEWROUTE, unix.NLM_F_CREATE | unix.NLM_F_EXCL, appendRoute(nil, r, m.links.byName[r.Dev], unix.RT_SCOPE_UNIVERSE)})
	}
	m.must(unix.SetsockoptInt(m.rtnetlink.fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 2048))
	m.must(m.rtnetlink.send(refused))
	for i, err := range m.send(operations[plan.Add], there) {
		if !errors.Is(err, errLost) {
			t.Errorf("adding route %d, which is there: %v", i, err)
		}
	}
	for i, err := range m.send(operations[plan.Add], there) { // by another socket
		if !errors.Is(err, unix.EEXIST) {
			t.Errorf("adding route %d once more: %v", i, err)
		}
	}
	m.settle(all)
}

// A dump that is not read to its end does not block the next.
func TestDumpGivenUp(t *testing.T) {
	m := newMachine(t)
	all := nodes(600) // more than a message of routes
	m.settle(all)
	m.must(m.rtnetlink.send([]request{{unix.RTM_GETROUTE, unix.NLM_F_DUMP, []byte{0: unix.AF_INET, 4: unix.RT_TABLE_MAIN, 11: 0}}}))
	m.Forget()
	_, err := m.Observe(context.Background())
	if err != nil && !errors.Is(err, unix.EBUSY) {
		t.Error(err)
	}
	m.settle(all)
}

// A socket that replaces another is made in the namespace of the first, wherever the
// goroutine runs that needs it.
func TestNewSocketIsMadeInTheSameNamespace(t *testing.T) {
	m := newMachine(t)
	all := nodes(3)
	m.settle(all)
	want := len(m.ours())
	done := make(chan error)
	got := 0
	go func() { // on a thread of another namespace
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		m.must(m.rtnetlink.close())
		m.Forget()
		state, err := m.Observe(context.Background())
		got = len(state.Routes)
		done <- errors.Join(err, m.dialNFT(), m.writeTable(m.masquerade))
	}()
	m.must(<-done)
	if got != want {
		t.Errorf("%d routes of ours, want %d", got, want)
	}
	m.settle(all)
}

// A refused transaction has many answers, of which none is taken for that of the next.
func TestRefusedTransactionIsDropped(t *testing.T) {
	m := newMachine(t)
	all := nodes(40)
	m.settle(all)
	for range 3 {
		m.nft.DelTable(nftTable)
		for range 50 {
			m.nft.DelChain(chains(m.masquerade)[0].Chain) // in a table that is gone by then
		}
		port := m.nftConn.PID()
		if err := m.flush(nil); err == nil {
			t.Fatal("the transaction was taken")
		}
		if m.nftConn.PID() == port {
			t.Error("the connection is still used")
		}
		m.settle(all)
	}
}

// Another process's message is not taken for the kernel's answer.
func TestForeignAnswer(t *testing.T) {
	m := newMachine(t)
	refused := []request{{kind: unix.RTM_DELROUTE, data: make([]byte, unix.SizeofRtMsg)}}
	want := m.rtnetlink.acknowledge(refused)[0]
	ours, err := unix.Getsockname(m.rtnetlink.fd) // which has a port since it was used
	m.must(err)
	other := newSocket(m.namespace, unix.NETLINK_ROUTE)
	m.must(other.open())
	defer other.close()
	forged := []byte{36, 0, 0, 0, unix.NLMSG_ERROR, 0, 0, 0} // not an error
	forged = binary.NativeEndian.AppendUint32(forged, m.rtnetlink.sequence+1)
	m.must(unix.Sendto(other.fd, append(forged, make([]byte, 24)...), 0, ours))
	fd := m.rtnetlink.fd
	if err := m.rtnetlink.acknowledge(refused)[0]; err == nil || !errors.Is(err, want) || errors.Is(err, errLost) {
		t.Errorf("the answer to a request that is refused is %v, and was %v", err, want)
	}
	if m.rtnetlink.fd != fd {
		t.Error("another socket is used, although no answer was lost")
	}
}

// An answer that there is no room for, or no socket to read it from, is an error, after which a new
// socket is used.
func TestUnreadableAnswers(t *testing.T) {
	m := newMachine(t)
	links := func() error {
		return m.rtnetlink.dump(unix.RTM_GETLINK, make([]byte, unix.SizeofIfInfomsg), func(uint16, []byte) {})
	}
	m.must(links())
	m.rtnetlink.in = make([]byte, 100)
	if err := links(); !errors.Is(err, errLost) || m.rtnetlink.fd != closed {
		t.Errorf("of an answer that is too long: %v", err)
	}
	m.rtnetlink.in = make([]byte, 48) // an error has 20 bytes, and the request's 28
	refused := request{kind: unix.RTM_DELROUTE, data: make([]byte, unix.SizeofRtMsg)}
	if err := m.rtnetlink.acknowledge([]request{refused})[0]; err == nil || errors.Is(err, errLost) {
		t.Errorf("of an answer that just has room: %v", err)
	}
	m.rtnetlink.in = nil
	m.must(m.rtnetlink.close())
	m.must(links())
	const none = 1 << 20
	lost := &socket{fd: none, in: make([]byte, 100)}
	if _, err := lost.receive(); !errors.Is(err, unix.EBADF) || !strings.Contains(err.Error(), "reading the kernel's answer: ") {
		t.Errorf("reading without a socket: %v", err)
	}
	if err := lost.send([]request{{kind: unix.RTM_GETLINK}}); !errors.Is(err, unix.EBADF) || !strings.Contains(err.Error(), "asking the kernel: ") {
		t.Errorf("asking without a socket: %v", err)
	}
	if err := lost.close(); !errors.Is(err, unix.EBADF) || lost.fd != closed {
		t.Errorf("closing what is not open: %v", err)
	}
}

// Messages of a datagram are read up to the first one that is broken.
func TestMessagesOfADatagram(t *testing.T) {
	message := func(length uint32, kind, flags uint16, sequence, port uint32, data ...byte) []byte {
		b := binary.NativeEndian.AppendUint32(nil, length)
		b = binary.NativeEndian.AppendUint16(binary.NativeEndian.AppendUint16(b, kind), flags)
		b = binary.NativeEndian.AppendUint32(binary.NativeEndian.AppendUint32(b, sequence), port)
		return append(b, data...)
	}
	one, padded := message(20, 1, 2, 3, 4, 5, 6, 7, 8), message(17, 9, 0, 0, 0, 5, 0, 0, 0)
	const readOne, readPadded = "20 1 2 3 4 [5 6 7 8]; ", "17 9 0 0 0 [5]; "
	for name, c := range map[string]struct {
		bytes []byte
		read  string
	}{
		"none": {nil, ""}, "one": {one, readOne}, "two": {append(slices.Clone(padded), one...), readPadded + readOne},
		"header alone": {message(16, 7, 0, 0, 0), "16 7 0 0 0 []; "}, "not padded at the end": {padded[:17], readPadded},
		"shorter than its header": {append(message(15, 7, 0, 0, 0), one...), ""}, "longer than all": {append(slices.Clone(one), message(17, 7, 0, 0, 0)...), readOne},
		"header cut off": {append(slices.Clone(one), one[:15]...), readOne},
	} {
		read := ""
		eachMessage(c.bytes, func(m netlink.Message) {
			read += fmt.Sprintf("%d %d %d %d %d %v; ", m.Header.Length, m.Header.Type, m.Header.Flags, m.Header.Sequence, m.Header.PID, m.Data)
		})
		if read != c.read {
			t.Errorf("%s: read %q, want %q", name, read, c.read)
		}
	}
}

// An answer ends with an error or with the end of a dump, which may have an error as well.
func TestEndsOfAnswers(t *testing.T) {
	errno := func(n int32) []byte { return binary.NativeEndian.AppendUint32(nil, uint32(n)) }
	for name, c := range map[string]struct {
		kind  uint16
		data  []byte
		ended bool
		err   error
	}{
		"acknowledgment": {unix.NLMSG_ERROR, errno(0), true, nil}, "error": {unix.NLMSG_ERROR, errno(-1), true, unix.EPERM},
		"dump": {unix.NLMSG_DONE, errno(0), true, nil}, "dump that failed": {unix.NLMSG_DONE, errno(-12), true, unix.ENOMEM},
		"dump without a number": {unix.NLMSG_DONE, nil, true, nil}, "dump with a length": {unix.NLMSG_DONE, errno(5), true, nil},
		"route": {unix.RTM_NEWROUTE, errno(-1), false, nil},
	} {
		ended, err := end(netlink.Message{Header: netlink.Header{Type: netlink.HeaderType(c.kind)}, Data: c.data})
		if ended != c.ended || !errors.Is(err, c.err) || (err == nil) != (c.err == nil) {
			t.Errorf("%s: ended %t, %v", name, ended, err)
		}
	}
}
