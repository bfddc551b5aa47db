package e2e

import (
	"context"
	"testing"
	"time"
)

// dump logs what may explain a failure. A part that can't be read is named, and does not fail the
// test.
func (c *cluster) dump(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for _, args := range [][]string{
		{"get", "nodes", "--output=wide"},
		{"get", "pods", "--all-namespaces", "--output=wide"},
		{"get", "services,endpointslices", "--namespace=" + namespace, "--output=wide"},
		{"get", "events", "--all-namespaces", "--sort-by=.lastTimestamp"},
		// Of the agents, and of the uninstall Job.
		{"logs", "--namespace=" + productNamespace, "--selector=app.kubernetes.io/instance=" + productName, "--prefix", "--tail=40", "--all-containers"},
	} {
		text, err := kubectl(ctx, args...)
		t.Logf("kubectl %v: %v\n%s", args, err, tail(text))
	}
	nodes, err := c.nodes(ctx)
	if err != nil || len(nodeCommand()) == 0 {
		t.Logf("not looking into the nodes: %v", err)
		return
	}
	for _, one := range nodes {
		text, err := onNode(ctx, one.name, "ip address; ip route show table all; ip -6 route show table all; nft list table inet plainroute; ls -l "+confFolder+" "+runFolder)
		t.Logf("node %s: %v\n%s", one.name, err, tail(text))
	}
}

// tail is the last 8,000 characters.
func tail(text string) string { return text[max(0, len(text)-8000):] }
