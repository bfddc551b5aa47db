// Package testutil contains helpers that several packages' tests share: failing on an error,
// waiting for a state, finding binaries, and running all tests of a package in a sandbox.
package testutil

import (
	"context"
	"testing"
	"time"
)

// Limit bounds a single wait on a machine under load. A test that waits longer hangs.
const Limit = time.Minute

// Must fails the test on an error.
func Must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Within returns a context that ends with the test or after d, whichever comes first.
func Within(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}
