package main

import (
	"testing"

	"k8s.io/client-go/rest"

	"github.com/plainroute/plainroute/pkg/topology"
)

// Events are told by default, and by a node only.
func TestWhoTellsEvents(t *testing.T) {
	if flag := agentCommand().Flags().Lookup("events"); flag == nil || flag.DefValue != "true" {
		t.Errorf("the flag is %v", flag)
	}
	for _, c := range []struct{ asked, router, want bool }{{true, false, true}, {false, false, false}, {true, true, false}} {
		f := &agentFlags{events: c.asked}
		events, err := f.tellEvents(&rest.Config{Host: "192.168.1.1"}, topology.Options{NodeName: "node1", Router: c.router})
		if got := events != nil; err != nil || got != c.want {
			t.Errorf("%+v: %t, %v", c, got, err)
		}
	}
}
