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

// held says that nothing can bear our mark here.
func (*statusFlags) held(context.Context) status.Held {
	return status.Held{Error: "this is no node: its system is " + runtime.GOOS}
}
