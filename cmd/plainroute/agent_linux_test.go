package main

import (
	"slices"
	"testing"

	"github.com/spf13/cobra"
)

func TestCheckChaining(t *testing.T) {
	for _, c := range []struct {
		args []string
		good bool
	}{
		{[]string{"--cni-config=link"}, true},
		{[]string{"--cni-config=file", "--cni-config-before=00-multus.conf,05-x.conflist", "--cni-plugins-dir=/etc/x"}, true},
		{[]string{"--cni-config="}, false},
		{[]string{"--cni-config=symlink"}, false},
		{[]string{"--cni-config=link", "--cni-plugins-dir=x"}, false},
		{[]string{"--cni-config=link", "--cni-config-before=00-multus.conf,99-late.conf"}, false},
		{[]string{"--cni-config=link", `--cni-config-before=""`}, false},
	} {
		f, cmd := &agentFlags{}, &cobra.Command{}
		f.register(cmd)
		if err := cmd.ParseFlags(append(c.args, "--node-name=node1")); err != nil {
			t.Fatal(err)
		}
		opts, err := f.validate(cmd)
		if (err == nil) != c.good || opts.ConfigFile != (f.cniConfig == "file") || !slices.Equal(opts.ConfigsBefore, f.cniBefore) {
			t.Errorf("%s: %v, %+v", c.args, err, opts)
		}
	}
}
