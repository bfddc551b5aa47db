//go:build !linux

package main

import (
	"errors"
	"runtime"

	"github.com/spf13/cobra"
)

// nodeDoctor has no flags for one node, because a node's kernel is Linux.
type nodeDoctor struct{ list bool }

func (*doctorFlags) registerNode(*cobra.Command) {}

func (*doctorFlags) ofNode(*cobra.Command) error {
	return usageError{errors.New("this machine is not a node, because its system is " + runtime.GOOS + "; --cluster examines all nodes of a cluster")}
}
