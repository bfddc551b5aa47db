package cleanup

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/plainroute/plainroute/pkg/cni"
)

const (
	// DetachTimeout is longer than the kubelet takes to handle dead sandboxes: it collects them
	// once a minute (ContainerGCPeriod of pkg/kubelet/kubelet.go).
	DetachTimeout = 70 * time.Second

	// pollInterval is the time between two checks of locks and sandboxes.
	pollInterval = 100 * time.Millisecond
	// quietTime is longer than a CNI DEL takes that had begun when its config went.
	quietTime = 3 * time.Second
)

// awaitDetach waits until the runtime has detached all sandboxes from our network, and returns the
// number of those that are left. The runtime needs our CNI config for that, so it must still be in
// place. The wait ends DetachTimeout after the last sandbox was detached, because the runtime may be
// off, or may have lost the rest.
func (c Cleanup) awaitDetach(ctx context.Context) (left int, err error) {
	progress, before := time.Now(), -1
	for {
		attached, err := cni.Attachments(c.CacheDir)
		if err != nil { // the rest is removed all the same
			c.notify("not waiting for dead sandboxes: %v", err)
			return 0, nil
		}
		left = len(attached)
		if left == 0 || c.Store.Read() == nil {
			return left, nil
		}
		if before < 0 {
			c.notify("waiting for the container runtime to detach dead sandboxes (%d, among them %s); the kubelet asks for it once a minute",
				left, attached[0].Container)
		}
		if left < before {
			progress = time.Now()
		}
		if before = left; time.Since(progress) >= c.DetachTimeout {
			return left, nil
		}
		if err := pause(ctx); err != nil {
			return left, fmt.Errorf("waiting for dead sandboxes to be detached: %w", err)
		}
	}
}

// settle removes the lease folder until no CNI DEL that began before the config was removed can
// create it again: host-local creates its folder before it looks for a lease.
func (c Cleanup) settle(ctx context.Context) error {
	end := time.Now().Add(c.DetachTimeout)
	for quiet := time.Now(); time.Since(quiet) < min(quietTime, c.DetachTimeout) && time.Now().Before(end); {
		if err := pause(ctx); err != nil {
			return fmt.Errorf("waiting for late CNI DELs: %w", err)
		}
		if _, err := os.Lstat(c.Store.LeaseDir()); err != nil {
			continue
		}
		if err := c.Store.Clear(true); err != nil {
			return err
		}
		quiet = time.Now()
	}
	return nil
}

func pause(ctx context.Context) error {
	select {
	case <-time.After(pollInterval):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
