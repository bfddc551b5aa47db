package status

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

// A crowd that opens connections and does nothing with them takes neither the agent's descriptors
// nor the probes' answers.
func TestCrowd(t *testing.T) {
	s := newServer()
	s.Latest.Publish(large())
	addr := serve(t, withLongTimeouts(s))
	before := descriptors(t)
	var mine []net.Conn
	for i := range 4 * maxConns {
		c := dial(t, addr)
		mine = append(mine, c)
		switch i % 3 {
		case 0:
			fmt.Fprint(c, "GET /status HTTP/1.1\r\nHost: x\r\n\r\n") // and never reads
		case 1:
			fmt.Fprint(c, "GET /status HTTP/1.1\r\nHost:") // and never ends
		}
		if i%maxConns == 0 {
			probe(t, addr)
		}
	}
	probe(t, addr)
	if now := descriptors(t) - before - len(mine); now > maxConns+16 {
		t.Errorf("the server holds %d descriptors, want %d at most", now, maxConns)
	}
	for _, c := range mine {
		c.Close()
	}
	probe(t, addr)
}

// Malformed requests are answered with an error, or their connections are closed.
func TestMalformedClients(t *testing.T) {
	s := newServer()
	s.Latest.Publish(example())
	addr := serve(t, s.HTTP())
	for name, sent := range map[string]string{
		"no HTTP":          "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 TLS\r\n\r\n",
		"garbage":          strings.Repeat("\x00\xff", 5000) + "\r\n\r\n",
		"no host":          "GET /status HTTP/1.1\r\n\r\n",
		"two hosts":        "GET /status HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
		"bad version":      "GET /status HTTP/9.9\r\nHost: x\r\n\r\n",
		"long line":        "GET /" + strings.Repeat("a", 1<<20) + " HTTP/1.1\r\nHost: x\r\n\r\n",
		"many headers":     "GET /status HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("A: b\r\n", 100000) + "\r\n",
		"negative length":  "GET /status HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
		"header folding":   "GET /status HTTP/1.1\r\nHost: x\r\nA: b\r\n\tc: d\r\n e\r\n\x00\r\n\r\n",
		"absolute and odd": "GET http://user:secret@elsewhere/status%2f..%2f HTTP/1.1\r\nHost: x\r\n\r\n",
		"upgrade to h2":    "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
	} {
		c := dial(t, addr)
		go func() { _, _ = io.WriteString(c, sent) }() // the server may hang up before all is sent
		_ = c.SetReadDeadline(time.Now().Add(longer))
		answer := make([]byte, 4096)
		n, _ := c.Read(answer)
		if line, _, _ := strings.Cut(string(answer[:n]), "\r\n"); n > 0 && !strings.HasPrefix(line, "HTTP/1.1 4") && !strings.HasPrefix(line, "HTTP/1.1 5") {
			t.Errorf("%s is answered by %q", name, line)
		}
		c.Close()
		probe(t, addr)
	}
}

// An endless body is not waited for.
func TestEndlessBody(t *testing.T) {
	server := newServer().HTTP()
	server.ReadTimeout = 200 * time.Millisecond
	c := dial(t, serve(t, server))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, err := io.WriteString(c, "GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000000\r\n\r\n")
		for chunk := strings.Repeat("x", 1<<16); err == nil; {
			_, err = io.WriteString(c, chunk)
		}
	}()
	select {
	case <-ended:
	case <-time.After(longer):
		t.Error("the server still reads a body that it has no use for")
	}
}

// Bound to one address, no other of the machine's answers.
func TestOneAddress(t *testing.T) {
	addr := serve(t, newServer().HTTP()) // of 127.0.0.1
	probe(t, addr)
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	for _, other := range []string{"127.0.0.2", "::1"} {
		if c, err := net.DialTimeout("tcp", net.JoinHostPort(other, port), time.Second); err == nil {
			c.Close()
			t.Errorf("%s answers, too", other)
		}
	}
}

// probe asks as the kubelet does.
func probe(t *testing.T, addr string) {
	t.Helper()
	client := &http.Client{Timeout: longer, Transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := client.Get("http://" + addr + "/healthz")
	if err != nil {
		t.Fatal("a probe gets no answer:", err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		t.Errorf("a probe gets %d", answer.StatusCode)
	}
}

// descriptors counts those of this process, the server's and the clients'.
func descriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip(err)
	}
	return len(entries)
}
