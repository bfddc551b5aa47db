//go:build linux

package main

import (
	"context"
	"errors"
	"path/filepath"

	"github.com/plainroute/plainroute/pkg/cni"
	"github.com/plainroute/plainroute/pkg/dataplane"
	"github.com/plainroute/plainroute/pkg/status"
	"github.com/plainroute/plainroute/pkg/topology"
)

// leftover returns the objects with our mark.
func (f *statusFlags) leftover(ctx context.Context) status.Leftover {
	store := cni.Store{ConfDir: f.cniConfDir, RunDir: f.runDir}
	found := status.Leftover{Locked: store.Held(), Config: filepath.Join(f.cniConfDir, topology.Conflist)}
	host, err := openHost(ctx, dataplane.Config{Bridge: f.bridge, ProcSys: f.procSys, ResolvConf: defaultResolvConf, CNI: store})
	if err == nil {
		var facts topology.Host
		facts, found.State, err = host.Look(ctx)
		found.Ports = facts.Ports
		err = errors.Join(err, host.Close())
	}
	if err != nil {
		found.Error = err.Error()
	}
	return found
}
