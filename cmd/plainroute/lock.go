//go:build linux

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"

	ctrl "sigs.k8s.io/controller-runtime"

	"github.com/plainroute/plainroute/pkg/cni"
	"github.com/plainroute/plainroute/pkg/nslock"
)

// lock takes the locks of the run folder and of this network namespace, before it creates any file. The
// latter is nil if it can't be taken although no agent holds it: then the agent runs without.
func (f *agentFlags) lock(ctx context.Context, store *cni.Store) (lock *nslock.Lock, err error) {
	if err := nslock.Find(); err != nil {
		return nil, oneAgent(err)
	}
	if store.Lock, err = store.TakeLock(); err != nil {
		return nil, err
	}
	lock, err = nslock.Take(ctx, f.self())
	if errors.As(err, new(*nslock.HeldError)) {
		return nil, errors.Join(oneAgent(err), store.Lock.Close())
	}
	if err != nil {
		ctrl.Log.Info("Running without the lock that excludes a second agent, and retrying", "error", err.Error())
	}
	return lock, nil
}

// oneAgent adds the reason why a second agent can't run.
func oneAgent(err error) error {
	return fmt.Errorf("%w; two agents would delete each other's routes, which have the same mark", err)
}

// self describes this agent in the error of another agent that finds the lock taken.
func (f *agentFlags) self() string {
	if f.mode == modeRouter {
		return "router, run folder " + f.runDir
	}
	return fmt.Sprintf("node %s, run folder %s", cmp.Or(f.nodeName, os.Getenv("NODE_NAME")), f.runDir)
}
