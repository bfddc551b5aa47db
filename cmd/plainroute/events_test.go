package main

import (
	"testing"

	"k8s.io/client-go/rest"

	"github.com/plainroute/plainroute/controllers"
	"github.com/plainroute/plainroute/pkg/topology"
)

// Events are written by default, and by nodes only.
func TestWhoWritesEvents(t *testing.T) {
	if flag := agentCommand().Flags().Lookup("events"); flag == nil || flag.DefValue != "true" {
		t.Errorf("the flag is %v", flag)
	}
	for _, c := range []struct{ asked, router, want bool }{{true, false, true}, {false, false, false}, {true, true, false}} {
		f := &agentFlags{events: c.asked}
		r := &controllers.NodeReconciler{Options: topology.Options{NodeName: "node1", Router: c.router}}
		err := f.addClients(r, &rest.Config{Host: "192.168.1.1"})
		if got := r.Events != nil; err != nil || got != c.want || r.NodeStatus != nil {
			t.Errorf("%+v: %t, %v", c, got, err)
		}
	}
}
