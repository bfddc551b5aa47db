package manifests

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/plainroute/plainroute/test/testutil"
)

// The chart's README has each value that there is, and none that there isn't.
func TestReadmeHasAllValues(t *testing.T) {
	chart := filepath.Join(root, "charts", "plainroute")
	content, err := os.ReadFile(filepath.Join(chart, "values.yaml"))
	testutil.Must(t, err)
	var values map[string]any
	testutil.Must(t, yaml.Unmarshal(content, &values))
	readme, err := os.ReadFile(filepath.Join(chart, "README.md"))
	testutil.Must(t, err)
	listed := map[string]bool{}
	for line := range strings.Lines(string(readme)) {
		cells := strings.Split(line, "|")
		if len(cells) < 4 || !strings.Contains(cells[1], "`") {
			continue
		}
		for i, name := range strings.Split(cells[1], "`") {
			if i%2 == 1 {
				listed[name] = true
			}
		}
	}
	if there := names(values); !slices.Equal(there, slices.Sorted(maps.Keys(listed))) {
		t.Errorf("values.yaml has\n%s\nand README.md\n%s", there, slices.Sorted(maps.Keys(listed)))
	}
}

// opaque are values that are handed on as they are.
var opaque = []string{"resources", "nodeSelector", "affinity", "updateStrategy", "livenessProbe", "readinessProbe"}

// names are those of all values, as `helm --set` has them.
func names(values map[string]any) []string {
	var all []string
	for name, value := range values {
		inner, isMap := value.(map[string]any)
		if !isMap || len(inner) == 0 || slices.Contains(opaque, name) {
			all = append(all, name)
			continue
		}
		for key := range inner {
			all = append(all, name+"."+key)
		}
	}
	slices.Sort(all)
	return all
}
