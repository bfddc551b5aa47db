package cleanup

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/plainroute/plainroute/pkg/cni"
	"github.com/plainroute/plainroute/pkg/plan"
	"github.com/plainroute/plainroute/pkg/topology"
	"github.com/plainroute/plainroute/test/testutil"
)

// A busyHost gets a pod as soon as it is looked at, while there is a CNI config.
type busyHost struct{ store cni.Store }

func (h busyHost) Inspect(context.Context) (topology.Host, topology.State, error) {
	return topology.Host{Ports: 1}, topology.State{Bridge: topology.Bridge}, nil
}

func (h busyHost) Apply(_ context.Context, c plan.Changes) error {
	if c.Has(plan.KindCNI) {
		return h.store.Remove()
	}
	return nil
}

// The config is there while dead sandboxes are detached, so pods may come. Without force nothing is
// taken away under them, and with it their leases stay.
func TestPodsThatComeWhileSandboxesAreDetached(t *testing.T) {
	for _, force := range []bool{false, true} {
		store := cni.Store{ConfDir: t.TempDir(), RunDir: t.TempDir()}
		lease := filepath.Join(store.LeaseDir(), topology.Network, "10.244.1.2")
		for _, err := range []error{store.Write(topology.CNI{Bridge: topology.Bridge, MTU: 1500}), os.MkdirAll(filepath.Dir(lease), 0o755), os.WriteFile(lease, nil, 0o600)} {
			if err != nil {
				t.Fatal(err)
			}
		}
		c := Cleanup{Dataplane: busyHost{store}, Store: store, Force: force, CacheDir: t.TempDir(), DetachTimeout: time.Second}
		var result Result
		err := c.detachAndClean(t.Context(), false, nil, &result)
		if refused := errors.Is(err, ErrRefused) && len(result.Refusals) == 1; refused == force || force && err != nil {
			t.Errorf("force %t: %v, %q", force, err, result.Refusals)
		}
		if there := store.Read() != nil; there == force {
			t.Errorf("force %t: that the config is there is %t", force, there)
		}
		if _, err := os.Stat(lease); err != nil {
			t.Errorf("force %t: the lease of a live pod: %v", force, err)
		}
	}
}

// A CNI DEL that had begun when the config went makes the lease folder again, and each time it goes.
func TestSettleRemovesWhatLateDetachingMakes(t *testing.T) {
	c := Cleanup{Store: cni.Store{ConfDir: t.TempDir(), RunDir: t.TempDir()}, DetachTimeout: time.Hour}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- c.settle(ctx) }()
	for range 2 {
		// settle may remove the parent between two steps of MkdirAll.
		testutil.AwaitTrue(t, "the folder is made", func() bool { return os.MkdirAll(c.Store.LeaseDir(), 0o755) == nil })
		testutil.AwaitTrue(t, "the folder is gone", func() bool {
			_, err := os.Lstat(c.Store.LeaseDir())
			return errors.Is(err, os.ErrNotExist)
		})
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// A runtime's account that can't be read, as under SELinux, is reported and stops no cleanup.
func TestUnreadableAccountStopsNothing(t *testing.T) {
	cache := t.TempDir()
	if err := os.WriteFile(filepath.Join(cache, "results"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	var said []string
	c := Cleanup{CacheDir: cache, DetachTimeout: time.Hour, Notify: func(what string) { said = append(said, what) }}
	left, err := c.awaitDetach(t.Context())
	if left != 0 || err != nil || len(said) != 1 || !strings.HasPrefix(said[0], "not waiting for dead sandboxes: reading ") {
		t.Errorf("got %d, %v, said %q", left, err, said)
	}
}
