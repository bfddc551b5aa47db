package cleanup

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/plainroute/plainroute/pkg/cni"
)

// A CNI DEL that had begun when the config went makes the lease folder again, and each time it goes.
func TestSettleRemovesWhatLateDetachingMakes(t *testing.T) {
	c := Cleanup{Store: cni.Store{ConfDir: t.TempDir(), RunDir: t.TempDir()}, DetachTimeout: time.Hour}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- c.settle(ctx) }()
	for range 2 {
		if err := os.MkdirAll(c.Store.LeaseDir(), 0o755); err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
			if _, err := os.Lstat(c.Store.LeaseDir()); errors.Is(err, os.ErrNotExist) {
				break
			}
			if time.Now().After(deadline) {
				t.Fatal("the folder stays")
			}
		}
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
