package faults

import (
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/plainroute/plainroute/test/nodelab"
)

const (
	// echoPort is where a pod answers with the source address that it sees (package netlab),
	// talkPort is where we send from.
	echoPort = 8080
	talkPort = 5555
)

// talk is one flow of UDP, always from the same port, that asks for our address as the other side sees it.
type talk struct {
	conn *net.UDPConn
	self netip.Addr
	to   netip.AddrPort
	stop chan struct{}
}

// startTalk asks every 20 ms, whether or not an answer comes.
func (l *lab) startTalk(from *nodelab.Pod, to netip.Addr) {
	l.t.Helper()
	one := &talk{self: from.Addr(to), to: netip.AddrPortFrom(to, echoPort), stop: make(chan struct{})}
	l.must(from.Do(func() (err error) {
		one.conn, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(one.self, talkPort)))
		return err
	}))
	l.t.Cleanup(func() { one.conn.Close() })
	l.t.Cleanup(func() { close(one.stop) })
	go one.ask()
	l.talks = append(l.talks, one)
}

func (t *talk) ask() {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-t.stop:
			return
		case <-tick.C:
			// There is no pod at first, and the router answers so.
			_, _ = t.conn.WriteToUDPAddrPort([]byte("who am I?"), t.to)
		}
	}
}

// seenAs waits for an answer and returns our address as the other side sees it.
func (t *talk) seenAs() (string, error) {
	answer := make([]byte, 128)
	if err := t.conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
		return "", err
	}
	size, _, err := t.conn.ReadFromUDPAddrPort(answer)
	if err != nil {
		return "", fmt.Errorf("waiting for an answer from %s: %w", t.to, err)
	}
	return string(answer[:size]), nil
}

// begunEarly is a flow to a pod of a Node that isn't known yet: it goes to the default route, and is masqueraded where
// the agent does not know that pods can be there.
func begunEarly(name string, options nodelab.AgentOptions) fault {
	return fault{
		name:    name,
		answer:  "once the Node is known the flow is not masqueraded",
		options: options,
		prepare: func(l *lab) { l.third = l.newMachine() },
		inject: func(l *lab) {
			for _, subnet := range l.third.Subnets {
				// The bridge has a subnet's first address, the first pod the second.
				l.startTalk(l.pods[0], subnet.Addr().Next().Next())
			}
			l.run(after)
			l.must(l.third.Register(l.within(limit)))
			l.must(l.third.StartAgent(nodelab.AgentOptions{}))
			l.must(l.third.WaitReady(l.within(limit)))
			l.must(l.third.AwaitRoute(l.within(limit), l.node.Subnets...))
			l.must(l.node.AwaitRoute(l.within(limit), l.third.Subnets...))
			_, err := l.third.AddPod(l.within(limit), "pod")
			l.must(err)
			l.repairable()
		},
		repaired: func(l *lab) error {
			for _, one := range l.talks {
				seen, err := one.seenAs()
				if err != nil {
					return err
				}
				if seen != one.self.String() {
					l.t.Errorf("%s takes %s for %s", one.to, one.self, seen)
				}
			}
			return nil
		},
		// An address that was asked for before the pod was there is asked for again after a second
		// (net/ipv4/neigh/default/retrans_time_ms).
		within: 3 * time.Second, loses: nothing,
	}
}
