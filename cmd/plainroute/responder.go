//go:build linux

package main

import (
	"context"
	"fmt"
	"net/http"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/plainroute/plainroute/pkg/connectivity"
)

// responderCommand runs in the pods of check.
func responderCommand() *cobra.Command {
	ready := false
	cmd := &cobra.Command{
		Use: "responder", Short: "Answer the probes of plainroute check", Hidden: true, Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if ready {
				return respondsHere(cmd.Context())
			}
			return connectivity.Respond(cmd.Context())
		},
	}
	cmd.Flags().BoolVar(&ready, "ready", false, "check that a responder answers in this pod")
	return cmd
}

func respondsHere(ctx context.Context) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://localhost:"+strconv.Itoa(connectivity.Port)+"/healthz", http.NoBody)
	if err != nil {
		return err
	}
	response, err := http.DefaultTransport.RoundTrip(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("the responder answers %s", response.Status)
	}
	return nil
}
