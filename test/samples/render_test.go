// Package samples holds the samples for Kubernetes distributions to the types of these distributions' own modules. What a sample
// makes of the chart is made here by the commands in docs/install.md, so it is always that of today's chart.
package samples

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"
)

// workspace is a folder with the chart and the samples, in which the commands of docs/install.md run.
func workspace(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"charts", "config"} {
		must(t, os.CopyFS(filepath.Join(dir, name), os.DirFS(filepath.Join("..", "..", name))))
	}
	return dir
}

// documented runs the commands in docs/install.md that make a file, and returns the folder in which they ran and the file.
func documented(t *testing.T, file string) (dir string, content []byte) {
	t.Helper()
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "install.md"))
	must(t, err)
	var commands string
	for _, block := range strings.Split(string(page), "```\n") {
		if strings.HasSuffix(block, "> "+file+"\n") {
			commands = block
		}
	}
	if commands == "" {
		t.Fatalf("docs/install.md has no commands that make %s", file)
	}
	dir = workspace(t)
	run(t, dir, "bash", "-euc", commands)
	content, err = os.ReadFile(filepath.Join(dir, file))
	must(t, err)
	return dir, content
}

// rendered is the namespace and the chart without hooks, by arguments of Helm.
func rendered(t *testing.T, dir string, args ...string) string {
	t.Helper()
	namespace, err := os.ReadFile(filepath.Join(dir, "charts", "plainroute", "namespace.yaml"))
	must(t, err)
	args = append([]string{"template", "plainroute", filepath.Join("charts", "plainroute"), "-n", "plainroute-system", "--no-hooks"}, args...)
	return string(namespace) + "---\n" + string(run(t, dir, "helm", args...))
}

// run runs a program in a folder, with Helm and kustomize of this project, and returns what it prints.
func run(t *testing.T, dir, name string, args ...string) []byte {
	t.Helper()
	tools, err := filepath.Abs(filepath.Join("..", "..", "bin", "tools"))
	must(t, err)
	t.Setenv("PATH", tools+":"+os.Getenv("PATH"))
	for _, tool := range []string{"helm", "kustomize"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%v; `hack/binaries.sh helm kustomize` makes it", err)
		}
	}
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = dir
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, stderr.String())
	}
	return out
}

// documents splits a manifest.
func documents(t *testing.T, content []byte) (all [][]byte) {
	t.Helper()
	for reader := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(content))); ; {
		document, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return all
		}
		must(t, err)
		all = append(all, document)
	}
}

// decode decodes a document, and fails the test at a field that the type lacks and at another kind.
func decode(t *testing.T, document []byte, into any, apiVersion, kind string) {
	t.Helper()
	must(t, yaml.UnmarshalStrict(document, into))
	var meta struct{ APIVersion, Kind string }
	must(t, yaml.Unmarshal(document, &meta))
	if meta.APIVersion != apiVersion || meta.Kind != kind {
		t.Errorf("it is a %s %s; want a %s %s", meta.APIVersion, meta.Kind, apiVersion, kind)
	}
}

// accepts fails the test unless the agents of a manifest accept pod subnets in a range.
func accepts(t *testing.T, manifest, clusterCIDR string) {
	t.Helper()
	if !regexp.MustCompile(`name: PLAINROUTE_CLUSTER_CIDR\s+value: "` + regexp.QuoteMeta(clusterCIDR) + `"`).MatchString(manifest) {
		t.Errorf("the agents don't accept pod subnets in %s", clusterCIDR)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
