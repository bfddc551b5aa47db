package status

import (
	"net"
	"sync"
)

// maxConns is more than the kubelet's probes, a few Prometheuses and people need. A connection
// costs some 10 KiB and a descriptor.
const maxConns = 256

// Bounded limits the connections of a listener. Above the limit it closes the oldest one instead of
// delaying the newest: a well-behaved request takes milliseconds, so the oldest are slow on purpose
// or forgotten. Probes are answered however many of those there are.
func Bounded(l net.Listener) net.Listener { return &bounded{Listener: l, max: maxConns} }

type bounded struct {
	net.Listener
	max int

	mu    sync.Mutex
	conns []*conn // the oldest first
}

type conn struct {
	net.Conn
	listener *bounded
}

// Accept returns the next connection, and closes the oldest if there are too many.
func (b *bounded) Accept() (net.Conn, error) {
	accepted, err := b.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c := &conn{accepted, b}
	var oldest *conn
	b.mu.Lock()
	if len(b.conns) >= b.max {
		oldest = b.conns[0]
	}
	b.conns = append(b.conns, c)
	b.mu.Unlock()
	if oldest != nil {
		_ = oldest.Close()
	}
	return c, nil
}

// Close closes the connection and no longer counts it.
func (c *conn) Close() error {
	c.listener.remove(c)
	return c.Conn.Close()
}

func (b *bounded) remove(c *conn) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i := range b.conns {
		if b.conns[i] == c {
			b.conns = append(b.conns[:i], b.conns[i+1:]...)
			return
		}
	}
}
