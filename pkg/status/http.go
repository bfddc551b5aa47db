package status

import (
	"compress/gzip"
	"net"
	"net/http"
	"slices"
	"strings"
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
	c.listener.mu.Lock()
	c.listener.conns = slices.DeleteFunc(c.listener.conns, func(other *conn) bool { return other == c })
	c.listener.mu.Unlock()
	return c.Conn.Close()
}

// NotModified sets the ETag of a response, and reports whether it has sent 304 because the client
// has that version already (RFC 9110, 13.1.2: a weak comparison).
func NotModified(w http.ResponseWriter, r *http.Request, etag string) bool {
	w.Header().Set("ETag", etag)
	for _, has := range strings.Split(r.Header.Get("If-None-Match"), ",") {
		if strings.TrimPrefix(strings.TrimSpace(has), "W/") == strings.TrimPrefix(etag, "W/") {
			w.WriteHeader(http.StatusNotModified)
			return true
		}
	}
	return false
}

// SendJSON sends a body of JSON. It compresses for clients that accept it: fleet status of
// thousands of agents would otherwise transfer gigabytes through the API server.
func SendJSON(w http.ResponseWriter, r *http.Request, body []byte) {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	h.Set("Vary", "Accept, Accept-Encoding")
	// A failed write means that the client has closed the connection.
	if !strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		_, _ = w.Write(body)
		return
	}
	h.Set("Content-Encoding", "gzip")
	packed, _ := gzip.NewWriterLevel(w, gzip.BestSpeed) // the level is valid
	_, _ = packed.Write(body)
	_ = packed.Close()
}
