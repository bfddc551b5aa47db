package talk

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"time"
)

const (
	// flowInterval makes 100 packets a second.
	flowInterval = 10 * time.Millisecond
	// flowLimit ends a flow after ten minutes unless it is stopped before.
	flowLimit = 60000
	// flowGrace is how long to wait for the answers to the last packets.
	flowGrace = time.Second
)

// Report counts a flow's packets. A flow is made of datagrams, 100 a second, each answered by one.
type Report struct {
	// From is the pod that asked.
	From string `json:"from"`
	To   string `json:"to"`
	Sent int    `json:"sent"`
	// Received is how many arrived at the other side, by the answers received.
	Received int `json:"received"`
	// Answered is how many got an answer, Duplicates how many further answers there were.
	Answered   int `json:"answered"`
	Duplicates int `json:"duplicates"`
	// LongestLoss is how many packets in a row had no answer. LongestGap is the longest time between two answers, and
	// grows with the machine's load too.
	LongestLoss int           `json:"longestLoss"`
	LongestGap  time.Duration `json:"longestGap"`
	// Fault is the first error of a send, as when there is no route.
	Fault string `json:"fault,omitempty"`
}

// Lost is the number of packets without an answer, whichever way they got lost.
func (r Report) Lost() int { return r.Sent - r.Answered }

func (r Report) String() string {
	text := fmt.Sprintf("%s -> %s: %d sent, %d lost on the way there, %d on the way back, %d duplicates, %d lost in a row, longest gap %s",
		r.From, r.To, r.Sent, r.Sent-r.Received, r.Received-r.Answered, r.Duplicates, r.LongestLoss, r.LongestGap.Round(time.Millisecond))
	if r.Fault != "" {
		text += ", first fault: " + r.Fault
	}
	return text
}

// flow sends from one socket until it is stopped.
type flow struct {
	conn net.Conn
	id   uint64

	stopped  chan struct{}
	sending  sync.WaitGroup
	received sync.WaitGroup

	mu       sync.Mutex
	report   Report
	answers  []int // by number
	lastSeen time.Time
}

func startFlow(ctx context.Context, from, to string) (*flow, error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, UDP, to)
	if err != nil {
		return nil, fmt.Errorf("starting a flow to %s: %w", to, err)
	}
	f := &flow{
		conn: conn, id: rand.Uint64(), stopped: make(chan struct{}),
		report: Report{From: from, To: to}, lastSeen: time.Now(),
	}
	f.sending.Go(f.send)
	f.received.Go(f.receive)
	return f, nil
}

func (f *flow) send() {
	tick := time.NewTicker(flowInterval)
	defer tick.Stop()
	for number := range uint64(flowLimit) {
		select {
		case <-f.stopped:
			return
		case <-tick.C:
		}
		f.mu.Lock()
		f.answers = append(f.answers, 0)
		f.report.Sent++
		f.mu.Unlock()
		if _, err := f.conn.Write(packet{flow: f.id, number: number}.text()); err != nil {
			f.note(err)
		}
	}
}

func (f *flow) note(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.report.Fault == "" {
		f.report.Fault = err.Error()
	}
}

// receive ends when stop closes the socket. Any other error is the network's answer to one of our
// packets.
func (f *flow) receive() {
	text := make([]byte, answerLimit)
	for {
		size, err := f.conn.Read(text)
		if err != nil && isClosed(f.stopped) {
			return
		}
		if err != nil {
			f.note(err)
			continue
		}
		if one, err := parsePacket(text[:size]); err == nil && one.flow == f.id {
			f.record(one)
		}
	}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func (f *flow) record(one packet) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	f.report.LongestGap = max(f.report.LongestGap, now.Sub(f.lastSeen))
	f.lastSeen = now
	f.report.Received = max(f.report.Received, int(one.had))
	if one.number < uint64(len(f.answers)) {
		f.answers[one.number]++
	}
}

// count is the report as of now. Packets under way count as lost.
func (f *flow) count() Report {
	f.mu.Lock()
	defer f.mu.Unlock()
	report, missing := f.report, 0
	for _, copies := range f.answers {
		if copies > 0 {
			report.Answered++
			report.Duplicates += copies - 1
			missing = 0
			continue
		}
		missing++
		report.LongestLoss = max(report.LongestLoss, missing)
	}
	return report
}

// stop ends the sending, waits for the answers still under way, a second at most, and counts.
func (f *flow) stop() Report {
	close(f.stopped)
	f.sending.Wait()
	grace := time.NewTimer(flowGrace)
	defer grace.Stop()
	tick := time.NewTicker(flowInterval)
	defer tick.Stop()
	for f.count().Lost() > 0 {
		select {
		case <-tick.C:
			continue
		case <-grace.C:
		}
		break
	}
	f.conn.Close()
	f.received.Wait()
	return f.count()
}

// flows are those of one server.
type flows struct {
	mu      sync.Mutex
	running []*flow
}

func (f *flows) start(ctx context.Context, from string, targets []string) error {
	for _, to := range targets {
		one, err := startFlow(ctx, from, to)
		if err != nil {
			return err
		}
		f.mu.Lock()
		f.running = append(f.running, one)
		f.mu.Unlock()
	}
	return nil
}

func (f *flows) count() []Report {
	f.mu.Lock()
	defer f.mu.Unlock()
	reports := make([]Report, len(f.running))
	for i, one := range f.running {
		reports[i] = one.count()
	}
	return reports
}

// stop ends all flows at once.
func (f *flows) stop() []Report {
	f.mu.Lock()
	defer f.mu.Unlock()
	reports := make([]Report, len(f.running))
	var all sync.WaitGroup
	for i, one := range f.running {
		all.Go(func() { reports[i] = one.stop() })
	}
	all.Wait()
	f.running = nil
	return reports
}
