package testutil

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/plainroute/plainroute/test/sandbox"
)

// errNoSandbox is why this process is not in a sandbox. RunInSandbox sets it once, before any test runs.
var errNoSandbox = errors.New("the package's TestMain doesn't call RunInSandbox")

// RunInSandbox runs the tests of a package in namespaces of their own, for TestMain:
//
//	func TestMain(m *testing.M) { os.Exit(testutil.RunInSandbox(m, nil)) }
//
// Where check returns an error, or where this machine doesn't permit namespaces, the tests run outside of a sandbox, and
// those that call NeedSandbox are skipped with the reason. check may be nil. prepare runs inside, before the tests.
func RunInSandbox(m *testing.M, check func() error, prepare ...func() error) int {
	if check != nil {
		if errNoSandbox = check(); errNoSandbox != nil {
			return m.Run()
		}
	}
	box, code, err := sandbox.Enter(nil)
	switch {
	case errors.Is(err, sandbox.ErrNotPermitted):
		errNoSandbox = err
		return m.Run()
	case err != nil:
		fmt.Fprintf(os.Stderr, "%s: %v\n", filepath.Base(os.Args[0]), err)
		return code
	case box == nil:
		return code
	}
	errNoSandbox = nil
	for _, step := range prepare {
		if err := step(); err != nil {
			fmt.Fprintf(os.Stderr, "%s: preparing the sandbox: %v\n", filepath.Base(os.Args[0]), err)
			return 1
		}
	}
	return m.Run()
}

// NeedSandbox skips the test unless it runs in a sandbox.
func NeedSandbox(t testing.TB) {
	t.Helper()
	if errNoSandbox != nil {
		t.Skip(errNoSandbox)
	}
}
