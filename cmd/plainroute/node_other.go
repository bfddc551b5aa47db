//go:build !linux

package main

import (
	"context"
	"errors"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/plainroute/plainroute/pkg/status"
)

// nodeCommands returns none: a node's kernel is Linux.
func nodeCommands() []*cobra.Command { return nil }

// leftover returns an error: only a node can have objects with our mark.
func (*statusFlags) leftover(context.Context) status.Leftover {
	return status.Leftover{Error: "this machine is not a node: its system is " + runtime.GOOS}
}

// nodeDoctor has no flags for one node.
type nodeDoctor struct{ list bool }

func (*doctorFlags) registerNode(*cobra.Command) {}

func (*doctorFlags) ofNode(*cobra.Command) error {
	return usageError{errors.New("this machine is not a node, because its system is " + runtime.GOOS + "; --cluster examines all nodes of a cluster")}
}
