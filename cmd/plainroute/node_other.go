//go:build !linux

package main

import (
	"context"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/plainroute/plainroute/pkg/status"
)

// nodeCommands returns none: a node's kernel is Linux.
func nodeCommands() []*cobra.Command { return nil }

// held returns an error: there are no objects of ours here.
func (*statusFlags) held(context.Context) status.Held {
	return status.Held{Error: "this machine is not a node: its system is " + runtime.GOOS}
}
