package talk

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"
)

// freePort and the one after it are free now.
func freePort(t *testing.T) uint16 {
	t.Helper()
	for range 100 {
		first, err := net.Listen("tcp", ":0")
		if err != nil {
			t.Fatal(err)
		}
		port := netip.MustParseAddrPort(first.Addr().String()).Port()
		second, err := net.Listen("tcp", fmt.Sprintf(":%d", TCPPort(port)))
		first.Close()
		if err == nil {
			second.Close()
			return port
		}
	}
	t.Fatal("no two free ports in a row")
	return 0
}

func startServer(t *testing.T) *Server {
	t.Helper()
	server := &Server{Pod: "pod", Node: "node", Port: freePort(t)}
	if err := server.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	return server
}

func TestAsk(t *testing.T) {
	server := startServer(t)
	var questions []Question
	for _, host := range []string{"127.0.0.1", "127.0.0.2", "[::1]"} {
		main, bare := fmt.Sprintf("%s:%d", host, server.Port), fmt.Sprintf("%s:%d", host, TCPPort(server.Port))
		questions = append(questions,
			Question{Network: HTTP, Target: main, Host: "example.test"},
			Question{Network: TCP, Target: bare, Count: 3},
			Question{Network: UDP, Target: main})
	}
	for i, answer := range Ask(t.Context(), questions) {
		if answer.Question != questions[i] || answer.Error != "" || len(answer.From) != max(questions[i].Count, 1) {
			t.Fatalf("answer %d is %+v", i, answer)
		}
		for _, from := range answer.From {
			if from.Pod != "pod" || from.Node != "node" || !from.Seen.IsLoopback() {
				t.Errorf("%+v is answered by %+v", questions[i], from)
			}
		}
	}
}

func TestAskReportsFailures(t *testing.T) {
	unused := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	for _, network := range []string{HTTP, TCP, UDP, "carrier pigeon"} {
		answer := Ask(t.Context(), []Question{{Network: network, Target: unused}})[0]
		if answer.Error == "" || len(answer.From) != 0 {
			t.Errorf("an answer without a server over %s: %+v", network, answer)
		}
	}
}

// lossy answers packets of a flow, but does not receive those numbered in deaf, and does not answer
// those in dumb.
func lossy(t *testing.T, deaf, dumb []uint64) string {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	go func() {
		text, had := make([]byte, 100), uint64(0)
		for {
			size, from, err := conn.ReadFrom(text)
			if err != nil {
				return
			}
			one, err := parsePacket(text[:size])
			if err != nil || slices.Contains(deaf, one.number) {
				continue
			}
			had++
			one.had = had
			if !slices.Contains(dumb, one.number) {
				_, _ = conn.WriteTo(one.text(), from)
			}
		}
	}()
	return conn.LocalAddr().String()
}

func TestFlowCountsWhatIsLostEachWay(t *testing.T) {
	flow, err := startFlow(t.Context(), "test", lossy(t, []uint64{2, 3, 7}, []uint64{4, 9}))
	if err != nil {
		t.Fatal(err)
	}
	await(t, func() bool { return flow.count().Answered > 10 })
	report := flow.stop()
	if report.Sent-report.Received != 3 || report.Received-report.Answered != 2 || report.LongestLoss != 3 || report.Lost() != 5 {
		t.Errorf("lost 3 there, 2 back and 3 in a row; counted: %s", report)
	}
	if report.LongestGap < 3*flowInterval {
		t.Errorf("three in a row make a gap of three intervals at least, not %s", report.LongestGap)
	}
}

func TestFlowLosesNothing(t *testing.T) {
	server := startServer(t)
	var running flows
	targets := []string{fmt.Sprintf("127.0.0.1:%d", server.Port), fmt.Sprintf("[::1]:%d", server.Port)}
	if err := running.start(t.Context(), "test", targets); err != nil {
		t.Fatal(err)
	}
	await(t, func() bool {
		return !slices.ContainsFunc(running.count(), func(r Report) bool { return r.Answered < 20 })
	})
	for _, report := range running.stop() {
		if report.Lost() != 0 || report.Duplicates != 0 || report.Received != report.Sent || report.Fault != "" {
			t.Error(report)
		}
	}
}

func await(t *testing.T, done func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	tick := time.NewTicker(flowInterval)
	defer tick.Stop()
	for !done() {
		select {
		case <-ctx.Done():
			t.Fatal("waited for a minute in vain")
		case <-tick.C:
		}
	}
}
