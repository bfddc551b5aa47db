package controllers

import (
	"fmt"
	"os"
	"testing"

	"github.com/go-logr/logr"
	"k8s.io/klog/v2"

	"github.com/plainroute/plainroute/test/apiserver"
)

func TestMain(m *testing.M) {
	klog.SetLogger(logr.Discard()) // agents log to the books of their contexts
	os.Exit(apiserver.Run(m))
}

// clusterNodes are the Nodes of the real API server.
type clusterNodes struct {
	*apiserver.Nodes
	t *testing.T
}

// useNodes returns the Nodes of the real API server, of which there are none, or skips the test.
func useNodes(t *testing.T) clusterNodes {
	t.Helper()
	return clusterNodes{apiserver.Use(t), t}
}

var (
	newNode = apiserver.NewNode
	node1   = apiserver.Node1
	peer    = apiserver.Peer
)

// peerRoute is the route to peer i.
func peerRoute(i int) string { return fmt.Sprintf("10.244.%d.0/24 via 192.168.1.%d", i, 10+i) }
