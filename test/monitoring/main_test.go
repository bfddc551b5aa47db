// Package monitoring tests the files for Prometheus and Grafana with a real Prometheus: promtool tests the alerts, and
// each query of alerts and dashboard is asked of a Prometheus that scrapes real agents.
package monitoring

import (
	"os"
	"path/filepath"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/plainroute/plainroute/test/nodelab"
	"github.com/plainroute/plainroute/test/testutil"
)

func TestMain(m *testing.M) { os.Exit(testutil.RunInSandbox(m, nodelab.DefaultConfig().Check)) }

// path joins names to the module's folder.
func path(names ...string) string { return filepath.Join(append([]string{"..", ".."}, names...)...) }

// tool finds promtool or prometheus, or skips the test.
func tool(t *testing.T, name string) string {
	t.Helper()
	file, err := filepath.Abs(path("bin", "tools", name))
	testutil.Must(t, err)
	if _, err := os.Stat(file); err != nil {
		t.Skipf("%v; `hack/binaries.sh prometheus` makes it", err)
	}
	return file
}

func read(t *testing.T, names ...string) []byte {
	t.Helper()
	content, err := os.ReadFile(path(names...))
	testutil.Must(t, err)
	return content
}

func parse(t *testing.T, into any, names ...string) {
	t.Helper()
	testutil.Must(t, yaml.Unmarshal(read(t, names...), into))
}
