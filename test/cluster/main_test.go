package cluster

import (
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/plainroute/plainroute/test/cluster/sandbox"
)

// skipReason is set when no sandbox can be made here.
var skipReason string

func TestMain(m *testing.M) {
	if os.Getenv(clockVariable) != "" {
		tellTheTime()
	}
	box, code, err := sandbox.Enter(nil)
	switch {
	case errors.Is(err, sandbox.ErrNotPermitted):
		skipReason = err.Error()
	case err != nil:
		fmt.Fprintln(os.Stderr, "cluster:", err)
		os.Exit(code)
	case box == nil:
		os.Exit(code)
	}
	os.Exit(m.Run())
}
