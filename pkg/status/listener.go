package status

import (
	"net"
	"sync"
)

// maxConns is more than all who have business here need: the kubelet's probes, a
// few Prometheuses and people. A connection costs some 10 KiB and a descriptor.
const maxConns = 256

// Bounded bounds the connections of a listener. When there are too many, the oldest
// is hung up on rather than the newest kept waiting: an honest request is done in
// milliseconds, and those that sit there are slow on purpose or forgotten. So
// however many do that, a probe is answered.
func Bounded(l net.Listener) net.Listener { return &bounded{Listener: l, max: maxConns} }

type bounded struct {
	net.Listener
	max int

	mu    sync.Mutex
	conns []*conn // the oldest first
}

type conn struct {
	net.Conn
	of *bounded
}

// Accept takes a connection, and hangs up on the oldest where there is no room.
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

// Close makes room for another.
func (c *conn) Close() error {
	c.of.forget(c)
	return c.Conn.Close()
}

func (b *bounded) forget(c *conn) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i := range b.conns {
		if b.conns[i] == c {
			b.conns = append(b.conns[:i], b.conns[i+1:]...)
			return
		}
	}
}
