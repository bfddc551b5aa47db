package main

import (
	"slices"
	"testing"

	"github.com/plainroute/plainroute/pkg/topology"
)

func TestCheckChaining(t *testing.T) {
	for _, c := range []struct {
		flags agentFlags
		good  bool
	}{
		{agentFlags{cniConfig: "link"}, true},
		{agentFlags{cniConfig: "file", cniBefore: []string{"00-multus.conf", "05-x.conflist"}, cniPluginsDir: "/etc/x"}, true},
		{agentFlags{cniConfig: ""}, false},
		{agentFlags{cniConfig: "symlink"}, false},
		{agentFlags{cniConfig: "link", cniPluginsDir: "x"}, false},
		{agentFlags{cniConfig: "link", cniBefore: []string{"00-multus.conf", "99-late.conf"}}, false},
		{agentFlags{cniConfig: "link", cniBefore: []string{""}}, false},
	} {
		var opts topology.Options
		err := c.flags.checkChaining(&opts)
		if (err == nil) != c.good || opts.ConfigFile != (c.flags.cniConfig == "file") || !slices.Equal(opts.ConfigsBefore, c.flags.cniBefore) {
			t.Errorf("%+v: %v, %+v", c.flags, err, opts)
		}
	}
}
