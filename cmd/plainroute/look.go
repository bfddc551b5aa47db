//go:build linux

package main

import (
	"context"
	"errors"
	"net/netip"

	"github.com/plainroute/plainroute/pkg/dataplane"
	"github.com/plainroute/plainroute/pkg/topology"
)

// look reads what of ours is in the kernel and in the CNI folder at this moment. A
// Kernel keeps what it has read, so this takes a new one: who works on routes must
// not wait for who asks, nor the other way.
func look(config dataplane.Config) (topology.State, error) {
	kernel, err := dataplane.New(config)
	if err != nil {
		return topology.State{}, err
	}
	ctx := context.Background()
	_, err = kernel.Facts(ctx, []netip.Prefix{}) // none of others' routes, of which there may be a million
	if err != nil {
		return topology.State{}, errors.Join(err, kernel.Close())
	}
	state, err := kernel.Observe(ctx)
	return state, errors.Join(err, kernel.Close())
}
