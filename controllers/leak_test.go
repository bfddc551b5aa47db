package controllers

import (
	"testing"
	"time"

	"go.uber.org/goleak"
)

// An agent that ends leaves no goroutine behind, whatever it was doing, except those of connections
// that client-go keeps for all clients of a process.
func TestAgentLeavesNoGoroutine(t *testing.T) {
	api := useNodes(t)
	api.Add(node1(), peer(2))
	run := func(t *testing.T) {
		a := startAgent(t, agentOptions{host: leaveBehind(9)})
		a.nodes.Confirm(time.Now())
		a.eventually(a.hasRoutes(peerRoute(2)))
	}
	before := goleak.IgnoreCurrent()
	for range 3 {
		t.Run("agent", run)
	}
	var left error
	for end := time.Now().Add(limit); ; { // each of Find has half a second for them to end
		left = goleak.Find(before, goleak.IgnoreAnyFunction("golang.org/x/net/http2.(*clientConnReadLoop).run"))
		if left == nil || time.Now().After(end) {
			break
		}
	}
	if left != nil {
		t.Error(left)
	}
}
