package apiserver

import (
	"fmt"
	"io"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"k8s.io/client-go/rest"
)

// Gate is a TCP proxy to an API server that can be opened and shut. While it is shut, connections
// to it are refused.
type Gate struct {
	t      *testing.T
	addr   string
	target string
	sent   atomic.Int64

	mu       sync.Mutex
	listener net.Listener
	conns    map[net.Conn]bool
}

// NewGate returns a shut gate to the server of a config, and a config that leads through it.
func NewGate(t *testing.T, config *rest.Config) (*Gate, *rest.Config) {
	t.Helper()
	server, err := url.Parse(config.Host)
	if err != nil {
		t.Fatal(err)
	}
	g := &Gate{t: t, addr: reserve(t), target: server.Host, conns: map[net.Conn]bool{}}
	t.Cleanup(g.Shut)
	config = rest.CopyConfig(config)
	config.Host = "https://" + g.addr
	return g, config
}

// reserve returns an address on loopback that is not in use until the test ends: a socket is bound to it, and does not
// listen.
func reserve(t *testing.T) string {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Close(fd) })
	err = syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1) // or we could not listen there either
	if err == nil {
		err = syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}})
	}
	if err != nil {
		t.Fatal(err)
	}
	name, err := syscall.Getsockname(fd)
	at, ok := name.(*syscall.SockaddrInet4)
	if err != nil || !ok {
		t.Fatal(name, err)
	}
	return fmt.Sprintf("127.0.0.1:%d", at.Port)
}

// Open accepts connections.
func (g *Gate) Open() {
	g.t.Helper()
	listener, err := net.Listen("tcp", g.addr)
	if err != nil {
		g.t.Fatal(err)
	}
	g.mu.Lock()
	g.listener = listener
	g.mu.Unlock()
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			go g.pass(client)
		}
	}()
}

// Shut refuses new connections and closes the others.
func (g *Gate) Shut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.listener != nil {
		g.listener.Close()
		g.listener = nil
	}
	for c := range g.conns {
		c.Close()
	}
}

func (g *Gate) pass(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("tcp", g.target)
	if err != nil {
		return
	}
	defer server.Close()
	if !g.enter(client) {
		return
	}
	go func() {
		_, _ = io.Copy(server, client)
		server.Close()
	}()
	_, _ = io.Copy(counted{client, &g.sent}, server)
	g.mu.Lock()
	delete(g.conns, client)
	g.mu.Unlock()
}

// Sent returns the bytes that have come from the server.
func (g *Gate) Sent() int64 { return g.sent.Load() }

// counted counts the bytes of a writer.
type counted struct {
	io.Writer
	n *atomic.Int64
}

// Write writes and counts.
func (c counted) Write(b []byte) (int, error) {
	n, err := c.Writer.Write(b)
	c.n.Add(int64(n))
	return n, err
}

func (g *Gate) enter(client net.Conn) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.listener == nil {
		return false
	}
	g.conns[client] = true
	return true
}
