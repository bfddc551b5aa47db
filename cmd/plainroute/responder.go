//go:build linux

package main

import (
	"strconv"

	"github.com/spf13/cobra"

	"github.com/plainroute/plainroute/pkg/connectivity"
)

// responderCommand runs in the pods of check.
func responderCommand() *cobra.Command {
	ready := false
	cmd := &cobra.Command{
		Use: "responder", Short: "Answer the probes of plainroute check", Hidden: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if ready {
				_, err := get(cmd.Context(), "http://localhost:"+strconv.Itoa(connectivity.Port)+"/healthz")
				return err
			}
			return connectivity.Respond(cmd.Context())
		},
	}
	cmd.Flags().BoolVar(&ready, "ready", false, "check that a responder answers in this pod")
	return cmd
}
