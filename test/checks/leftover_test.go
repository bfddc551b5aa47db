package checks

import (
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/plainroute/plainroute/pkg/connectivity"
	"github.com/plainroute/plainroute/test/testutil"
)

// The leftovers of a killed run are found and removed, even while the API server restarts.
func TestLeftovers(t *testing.T) {
	c, p := play(t, "node-1", "node-2")
	r := testRun(p)
	r.Keep = true // leaves the same as a killed run
	_, err := r.Do(t.Context())
	testutil.Must(t, err)
	r.Post = func(context.Context, string, string, string, []byte) (io.ReadCloser, error) {
		return nil, errors.New("away")
	}
	if _, err := r.Do(t.Context()); err == nil {
		t.Error("no pod answers, and there is no error")
	}
	left, err := connectivity.Leftovers(t.Context(), p.tested)
	testutil.Must(t, err)
	if len(left) != 2 {
		t.Fatalf("found %v; want two namespaces", left)
	}
	testutil.Must(t, c.API.Kill())
	time.AfterFunc(2*time.Second, func() { _ = c.API.Restart() })
	for _, namespace := range left {
		testutil.Must(t, connectivity.Remove(t.Context(), p.tested, namespace))
	}
	left, err = connectivity.Leftovers(t.Context(), p.tested)
	testutil.Must(t, err)
	if len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}
