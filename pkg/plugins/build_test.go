package plugins

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/plainroute/plainroute/test/testutil"
)

// program stands in for a plugin: it prints its version, and runs until its input ends.
const program = `package main

import (
	"fmt"
	"io"
	"os"

	"github.com/containernetworking/plugins/pkg/utils/buildversion"
)

func main() {
	fmt.Println("version", buildversion.BuildVersion)
	_, _ = io.Copy(io.Discard, os.Stdin)
}
`

// checkout makes a folder that is laid out as a checkout of the stock plugins.
func checkout(t testing.TB, dir, mod string) {
	t.Helper()
	for path, content := range map[string]string{
		"go.mod":                            "module " + mod + "\n\ngo 1.26\n",
		"pkg/utils/buildversion/version.go": "package buildversion\n\nvar BuildVersion string\n",
		"plugins/main/bridge/bridge.go":     strings.ReplaceAll(program, module, mod),
		"plugins/ipam/host-local/main.go":   strings.ReplaceAll(program, module, mod),
	} {
		testutil.Must(t, os.MkdirAll(filepath.Join(dir, filepath.Dir(path)), 0o755))
		testutil.Must(t, os.WriteFile(filepath.Join(dir, path), []byte(content), 0o644))
	}
}

// build runs go build for a package in a folder and returns the binary.
func build(t testing.TB, dir, pkg string, env []string, flags ...string) []byte {
	t.Helper()
	out := filepath.Join(t.TempDir(), "binary")
	cmd := exec.CommandContext(t.Context(), "go", append(append([]string{"build", "-o", out}, flags...), pkg)...)
	cmd.Dir = dir
	cmd.Env = append(append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off", "GOFLAGS=-buildvcs=false"), env...)
	if output, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build %s: %v\n%s", pkg, err, output)
	}
	content, err := os.ReadFile(out)
	testutil.Must(t, err)
	return content
}

// release builds a plugin as the stock ones are released: in a checkout, the
// version given to the linker. With "" for a version it isn't given any.
func release(t testing.TB, pkg, version string) []byte {
	t.Helper()
	dir := t.TempDir()
	checkout(t, dir, module)
	flags := "-extldflags -static"
	if version != "" {
		flags += " -X " + buildVersion + version
	}
	return build(t, dir, "./plugins/"+pkg, nil, "-ldflags", flags)
}

// published is the real bridge plugin, built from the published module.
func published(t testing.TB) []byte {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(testutil.NeedPlugins(t), "bridge"))
	testutil.Must(t, err)
	return content
}
