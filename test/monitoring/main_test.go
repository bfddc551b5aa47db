// Package monitoring holds what is made for Prometheus and Grafana to a real Prometheus: promtool tests the alerts, and
// each query of alerts and dashboard is asked of a Prometheus that scrapes real agents.
package monitoring

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/plainroute/plainroute/test/cluster"
	"github.com/plainroute/plainroute/test/cluster/sandbox"
)

// skipReason tells why there can be no cluster here.
var skipReason string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	if err := configuration().Check(); err != nil {
		skipReason = err.Error()
		return m.Run()
	}
	box, code, err := sandbox.Enter(nil)
	switch {
	case errors.Is(err, sandbox.ErrNotPermitted):
		skipReason = err.Error()
		return m.Run()
	case err != nil:
		fmt.Fprintln(os.Stderr, "monitoring:", err)
		return code
	case box == nil:
		return code
	}
	return m.Run()
}

func configuration() cluster.Config {
	root, err := filepath.Abs(path())
	if err != nil {
		root = path()
	}
	return cluster.ConfigFromEnv(root, "/run/cluster")
}

// path joins names to the module's folder.
func path(names ...string) string { return filepath.Join(append([]string{"..", ".."}, names...)...) }

// tool finds promtool or prometheus, or skips the test.
func tool(t *testing.T, name string) string {
	t.Helper()
	file, err := filepath.Abs(path("bin", "tools", name))
	must(t, err)
	if _, err := os.Stat(file); err != nil {
		t.Skipf("%v; `hack/binaries.sh prometheus` makes it", err)
	}
	return file
}

func read(t *testing.T, names ...string) []byte {
	t.Helper()
	content, err := os.ReadFile(path(names...))
	must(t, err)
	return content
}

func parse(t *testing.T, into any, names ...string) {
	t.Helper()
	must(t, yaml.Unmarshal(read(t, names...), into))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
