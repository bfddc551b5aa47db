package main

import (
	"errors"
	"strings"
	"testing"

	"github.com/plainroute/plainroute/pkg/check"
)

// What was found is shown though the namespace could not be removed, and that is told too.
func TestResultOfCheck(t *testing.T) {
	stays := errors.New("the namespace stays")
	good := &check.Result{Nodes: []string{"node-1"}, Probes: 3}
	bad := &check.Result{Nodes: []string{"node-1"}, Probes: 3, Faults: []check.Fault{{From: "node-1", Target: check.Names}}}
	for _, c := range []struct {
		result    *check.Result
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
		err := (&checkFlags{output: "table"}).end(&b, c.result, c.err)
		if !errors.Is(err, c.want) || (err == nil) != (c.want == nil) || !strings.Contains(b.String(), c.shown) || c.shown == "" && b.Len() > 0 {
			t.Errorf("%+v with %v ends with %v:\n%s", c.result, c.err, err, b.String())
		}
	}
}

func TestOutsideOfCheck(t *testing.T) {
	for to, good := range map[string]bool{"192.0.2.1:443": true, "[2001:db8::1]:443": true, "www.example.com:443": true, ":443": false, "192.0.2.1": false, "192.0.2.1:": false} {
		f := &checkFlags{nodes: 1, timeout: 1, output: "table", outside: []string{to}}
		if err := f.validate(); (err == nil) != good {
			t.Errorf("--outside %s: %v", to, err)
		}
	}
}
