package main

import (
	"errors"
	"strings"
	"testing"

	"github.com/plainroute/plainroute/pkg/connectivity"
)

// check prints its result and the error if it could not remove the namespace.
func TestResultOfCheck(t *testing.T) {
	stays := errors.New("the namespace stays")
	good := &connectivity.Result{Nodes: []string{"node-1"}, Probes: 3}
	bad := &connectivity.Result{Nodes: []string{"node-1"}, Probes: 3, Failed: []connectivity.Failure{{From: "node-1", Target: connectivity.Names}}}
	for _, c := range []struct {
		result    *connectivity.Result
		err, want error
		shown     string
	}{
		{good, nil, nil, "1 node, 3 probes: all is well"},
		{bad, nil, errShown, "3 probes: 1 failed"},
		{good, stays, stays, "1 node, 3 probes: all is well"},
		{bad, stays, stays, "3 probes: 1 failed"},
		{nil, stays, stays, ""},
	} {
		var b strings.Builder
		cmd := checkCommand()
		cmd.SetOut(&b)
		err := (&connectivityFlags{output: "table"}).end(cmd, c.result, c.err)
		if !errors.Is(err, c.want) || (err == nil) != (c.want == nil) || !strings.Contains(b.String(), c.shown) || c.shown == "" && b.Len() > 0 {
			t.Errorf("%+v with %v ends with %v:\n%s", c.result, c.err, err, b.String())
		}
	}
}

// The output of the kubectl plugin mentions the plugin, because plainroute may not be installed.
func TestCheckKnowsItsName(t *testing.T) {
	for _, want := range []string{"plainroute", "kubectl plainroute"} {
		root := rootCommand()
		if want != "plainroute" {
			asPlugin(root)
		}
		cmd, _, err := root.Find([]string{"check"})
		if err != nil {
			t.Fatal(err)
		}
		var b strings.Builder
		cmd.SetOut(&b)
		result := &connectivity.Result{Nodes: []string{"node-1"}, Probes: 3, Failed: []connectivity.Failure{{From: "node-1", Target: connectivity.Names}}}
		_ = (&connectivityFlags{output: "table"}).end(cmd, result, nil)
		if line := "remediation: Run " + want + " status --cluster --problems, and for the nodes that are named " + want + " doctor --cluster."; !strings.Contains(b.String(), line) {
			t.Errorf("want %q in:\n%s", line, b.String())
		}
	}
}

func TestOutsideOfCheck(t *testing.T) {
	for to, good := range map[string]bool{"192.0.2.1:443": true, "[2001:db8::1]:443": true, "www.example.com:443": true, ":443": false, "192.0.2.1": false, "192.0.2.1:": false} {
		f := &connectivityFlags{output: "table", Run: connectivity.Run{MaxNodes: 1, Timeout: 1e9, Outside: []string{to}}}
		if err := f.validate(); (err == nil) != good {
			t.Errorf("--outside %s: %v", to, err)
		}
	}
}
