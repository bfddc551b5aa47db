package dataplane

import (
	"context"
	"errors"
	"runtime"
	"testing"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/plan"
)

// What was left unread is never taken for the answer to a later question, whatever that is.
func TestLeftAnswersAreNobodys(t *testing.T) {
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
	m.must(m.Apply(context.Background(), routes(plan.Delete, m.observe().Routes[:10]...)))
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
	answers, lost := m.send(adding, routes[:perSend]), 0
	for i, err := range answers {
		if errors.Is(err, errLost) {
			lost++
		} else if err != nil {
			t.Errorf("adding %v: %v", routes[i], err)
		}
	}
	if lost == 0 || lost == perSend {
		t.Fatalf("%d of %d answers were lost", lost, perSend)
	}
	if m.rtnetlink.fd >= 0 {
		t.Error("the socket is still used")
	}
	for i, err := range m.send(adding, routes[:perSend]) {
		if !errors.Is(err, unix.EEXIST) {
			t.Errorf("adding %v again: %v", routes[i], err)
		}
	}
	m.Forget()
	m.applyMixed(all)
	m.settle(all)
}

// A dump that is not read to its end keeps nobody from the next.
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
func TestRefusedTransactionIsForgotten(t *testing.T) {
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
