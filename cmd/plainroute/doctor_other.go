//go:build !linux

package main

import (
	"errors"
	"runtime"

	"github.com/spf13/cobra"
)

// nodeDoctor is nothing: this is no node.
type nodeDoctor struct{ list bool }

func (*doctorFlags) registerNode(*cobra.Command) {}

func (*doctorFlags) ofNode(*cobra.Command) error {
	return usageError{errors.New("this is no node, for its system is " + runtime.GOOS + ": --cluster examines all nodes of a cluster")}
}
