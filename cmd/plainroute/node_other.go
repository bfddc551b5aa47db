//go:build !linux

package main

import (
	"context"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/plainroute/plainroute/pkg/status"
)

// nodeCommands are none: a node's kernel is Linux. What a workstation does, others can too.
func nodeCommands() []*cobra.Command { return nil }

// leftover returns an error: only a node can have objects with our mark.
func (*statusFlags) leftover(context.Context) status.Leftover {
	return status.Leftover{Error: "this machine is not a node: its system is " + runtime.GOOS}
}
