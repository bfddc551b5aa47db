package netlab

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/plainroute/plainroute/test/testutil"
)

const (
	// flowInterval makes 100 packets a second.
	flowInterval = 10 * time.Millisecond
	// flowLimit ends a flow after five minutes unless it is stopped before; sequence numbers end at
	// 65,535.
	flowLimit = 30000
	// flowGrace is how long to wait for the answers to the last packets.
	flowGrace = time.Second
)

// Flow is a ping that runs on while something happens to the cluster.
type Flow struct {
	echo *echo
	name string

	stop     chan struct{}
	sending  sync.WaitGroup
	received sync.WaitGroup

	mu       sync.Mutex
	sent     int
	answers  map[int]int
	lastSeen time.Time
	gap      time.Duration
	fault    error
}

// FlowReport counts a flow's packets.
type FlowReport struct {
	Name                       string
	Sent, Received, Duplicates int
	// LongestGap is the longest time between two answers, LongestLoss how many packets in a row had none: the former
	// grows with the machine's load, the latter doesn't.
	LongestGap  time.Duration
	LongestLoss int
	// Fault is the first error of a send.
	Fault error
}

// Lost is the number of packets without an answer.
func (r FlowReport) Lost() int { return r.Sent - r.Received }

func (r FlowReport) String() string {
	text := fmt.Sprintf("%s: %d sent, %d lost, %d duplicates, longest gap %s",
		r.Name, r.Sent, r.Lost(), r.Duplicates, r.LongestGap.Round(time.Millisecond))
	if r.Fault != nil {
		text += ", first fault: " + r.Fault.Error()
	}
	return text
}

// StartFlow pings to from inside the namespace, 100 times a second, until Stop.
func (n *Namespace) StartFlow(to netip.Addr) (*Flow, error) {
	e, err := n.openEcho(to)
	if err != nil {
		return nil, err
	}
	flow := &Flow{
		echo: e, name: fmt.Sprintf("%s -> %s", n.Name, to),
		stop: make(chan struct{}), answers: map[int]int{}, lastSeen: time.Now(),
	}
	flow.sending.Go(flow.send)
	flow.received.Go(flow.receive)
	return flow, nil
}

func (f *Flow) send() {
	tick := time.NewTicker(flowInterval)
	defer tick.Stop()
	for seq := range flowLimit {
		select {
		case <-f.stop:
			return
		case <-tick.C:
		}
		err := f.echo.send(seq)
		f.mu.Lock()
		f.sent++
		if err != nil && f.fault == nil {
			f.fault = err
		}
		f.mu.Unlock()
	}
}

// receive ends when Stop closes the socket.
func (f *Flow) receive() {
	for {
		seq, err := f.echo.receive(time.Now().Add(flowLimit * flowInterval))
		if err != nil {
			return
		}
		f.note(seq)
	}
}

func (f *Flow) note(seq int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	f.gap = max(f.gap, now.Sub(f.lastSeen))
	f.lastSeen = now
	f.answers[seq]++
}

// Run lets so many more packets be sent.
func (f *Flow) Run(ctx context.Context, packets int) error {
	for goal := f.count() + packets; f.count() < goal; {
		if err := testutil.Pause(ctx, flowInterval); err != nil {
			return fmt.Errorf("%s: sending %d packets: %w", f.name, packets, err)
		}
	}
	return nil
}

func (f *Flow) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.sent
}

// Stop ends the sending, waits for the answers still under way (a second at most) and counts.
func (f *Flow) Stop() FlowReport {
	close(f.stop)
	f.sending.Wait()
	grace, cancel := context.WithTimeout(context.Background(), flowGrace)
	defer cancel()
	for !f.complete() && testutil.Pause(grace, flowInterval) == nil {
	}
	f.echo.close()
	f.received.Wait()
	f.mu.Lock()
	defer f.mu.Unlock()
	report := FlowReport{Name: f.name, Sent: f.sent, Received: len(f.answers), LongestGap: f.gap, Fault: f.fault}
	for _, copies := range f.answers {
		report.Duplicates += copies - 1
	}
	missing := 0
	for seq := range f.sent {
		missing++
		if f.answers[seq] > 0 {
			missing = 0
		}
		report.LongestLoss = max(report.LongestLoss, missing)
	}
	return report
}

func (f *Flow) complete() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.answers) == f.sent
}
