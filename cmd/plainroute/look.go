//go:build linux

package main

import (
	"context"
	"errors"
	"net/netip"

	"github.com/plainroute/plainroute/pkg/dataplane"
	"github.com/plainroute/plainroute/pkg/topology"
)

// look reads our objects in the kernel and in the CNI folder. It opens a Kernel of its own, so that the
// loop and a request for /status don't wait for each other.
func look(config dataplane.Config) (topology.State, error) {
	kernel, err := dataplane.New(config)
	if err != nil {
		return topology.State{}, err
	}
	ctx := context.Background()
	_, err = kernel.Facts(ctx, []netip.Prefix{}) // no foreign routes, of which there may be a million
	if err != nil {
		return topology.State{}, errors.Join(err, kernel.Close())
	}
	state, err := kernel.Observe(ctx)
	return state, errors.Join(err, kernel.Close())
}
