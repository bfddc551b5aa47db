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

// held returns the objects with our mark.
func (f *statusFlags) held(ctx context.Context) status.Held {
	store := cni.Store{ConfDir: f.cniConfDir, RunDir: f.runDir}
	held := status.Held{Locked: store.Held(), Config: filepath.Join(f.cniConfDir, topology.Conflist)}
	host, err := openHost(ctx, dataplane.Config{Bridge: f.bridge, ProcSys: f.procSys, ResolvConf: defaultResolvConf, CNI: store})
	if err == nil {
		var facts topology.Host
		facts, held.State, err = host.Look(ctx)
		held.Ports = facts.Ports
		err = errors.Join(err, host.Close())
	}
	if err != nil {
		held.Error = err.Error()
	}
	return held
}
