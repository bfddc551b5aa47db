package inject

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"

	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/plainroute/plainroute/test/netlab"
	"github.com/plainroute/plainroute/test/nodelab"
)

// Gate is a TCP proxy to the API server that can be opened and shut. To an agent behind a shut gate the API server is
// down.
type Gate struct {
	port       int
	kubeconfig string

	mu       sync.Mutex
	listener net.Listener
	conns    map[net.Conn]*hole
}

// NewGate makes a gate at a port of the router's address, shut.
func NewGate(c *nodelab.Cluster, port int) (*Gate, error) {
	path, err := c.Kubeconfig(fmt.Sprintf("gate-%d", port), func(config *clientcmdapi.Config) {
		for _, server := range config.Clusters {
			server.Server = "https://" + apiAddress(port)
		}
	})
	if err != nil {
		return nil, err
	}
	return &Gate{port: port, kubeconfig: path, conns: map[net.Conn]*hole{}}, nil
}

// Kubeconfig returns the path of the agents' kubeconfig with the gate's address.
func (g *Gate) Kubeconfig() string { return g.kubeconfig }

// Open lets connections through.
func (g *Gate) Open() error {
	listener, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", apiAddress(g.port))
	if err != nil {
		return fmt.Errorf("opening the gate at port %d: %w", g.port, err)
	}
	g.mu.Lock()
	g.listener = listener
	g.mu.Unlock()
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go g.pass(conn)
		}
	}()
	return nil
}

// Shut refuses new connections and cuts those that are open.
func (g *Gate) Shut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.listener != nil {
		g.listener.Close()
		g.listener = nil
	}
	for conn := range g.conns {
		conn.Close()
	}
}

// Forget swallows all data that is sent from now on over the connections that are open, and keeps
// them open: a load balancer or a firewall that has forgotten them. New ones work.
func (g *Gate) Forget() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, hole := range g.conns {
		hole.open.Store(true)
	}
}

// hole swallows the data of a connection, once it is open.
type hole struct{ open atomic.Bool }

// copy is io.Copy until the hole is open.
func (h *hole) copy(to io.Writer, from io.Reader) {
	buffer := make([]byte, 32<<10)
	for {
		size, err := from.Read(buffer)
		if err != nil {
			return
		}
		if h.open.Load() {
			continue
		}
		if _, err := to.Write(buffer[:size]); err != nil {
			return
		}
	}
}

// pass copies both ways until either end is closed.
func (g *Gate) pass(client net.Conn) {
	defer client.Close()
	server, err := (&net.Dialer{}).DialContext(context.Background(), "tcp", apiAddress(nodelab.APIPort))
	if err != nil {
		return
	}
	defer server.Close()
	hole := &hole{}
	g.track(client, hole)
	defer g.track(client, nil)
	over := make(chan struct{}, 2)
	relay := func(to, from net.Conn) {
		hole.copy(to, from)
		over <- struct{}{}
	}
	go relay(server, client)
	go relay(client, server)
	<-over
}

// track remembers a connection, or forgets it: nil.
func (g *Gate) track(client net.Conn, hole *hole) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if hole != nil {
		g.conns[client] = hole
		return
	}
	delete(g.conns, client)
}

// apiAddress is host and port of a proxy or of the API server.
func apiAddress(port int) string { return netip.AddrPortFrom(netlab.Router4, uint16(port)).String() }
