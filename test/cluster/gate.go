package cluster

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync"

	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// Gate is a second way to the API server that can be opened and shut: what an agent behind it sees is an API server
// that isn't there.
type Gate struct {
	port       int
	kubeconfig string

	mu       sync.Mutex
	listener net.Listener
	conns    map[net.Conn]bool
}

// NewGate makes a gate at a port of the router's address, shut.
func (c *Cluster) NewGate(port int) (*Gate, error) {
	path, err := c.Kubeconfig(fmt.Sprintf("gate-%d", port), func(config *clientcmdapi.Config) {
		for _, server := range config.Clusters {
			server.Server = "https://" + apiAddress(port)
		}
	})
	if err != nil {
		return nil, err
	}
	return &Gate{port: port, kubeconfig: path, conns: map[net.Conn]bool{}}, nil
}

// Kubeconfig is the agents' identity at the gate's address.
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

// pass copies both ways until either end is closed.
func (g *Gate) pass(client net.Conn) {
	defer client.Close()
	server, err := (&net.Dialer{}).DialContext(context.Background(), "tcp", apiAddress(apiPort))
	if err != nil {
		return
	}
	defer server.Close()
	g.track(client, true)
	defer g.track(client, false)
	over := make(chan struct{}, 2)
	relay := func(to, from net.Conn) {
		_, _ = io.Copy(to, from)
		over <- struct{}{}
	}
	go relay(server, client)
	go relay(client, server)
	<-over
}

func (g *Gate) track(conn net.Conn, open bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if open {
		g.conns[conn] = true
		return
	}
	delete(g.conns, conn)
}
