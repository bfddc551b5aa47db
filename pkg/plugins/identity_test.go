package plugins

import (
	"bytes"
	"debug/elf"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/mod/semver"

	"github.com/plainroute/plainroute/test/testutil"
)

// Binaries as they are found on nodes, made in the ways in which those are made.
func TestIdentify(t *testing.T) {
	bridge := func(version string) []byte { return release(t, "main/bridge", version) }
	whole := bridge("v1.8.0")
	for name, c := range map[string]struct {
		content []byte
		want    identity
	}{
		"a release":                      {whole, identity{stock: true, version: "v1.8.0"}},
		"a distributor's":                {bridge("v1.8.0-k3s1"), identity{stock: true, version: "v1.8.0-k3s1"}},
		"a changed one":                  {bridge("v1.8.0+dirty"), identity{stock: true}},
		"a version that is none":         {bridge("main"), identity{stock: true}},
		"no version":                     {bridge(""), identity{stock: true}},
		"another stock plugin":           {release(t, "ipam/host-local", "v1.8.0"), identity{}},
		"Debian's way":                   {withoutModules(t), identity{stock: true}},
		"a fork under a name of its own": {fork(t, "github.com/acme/plugins"), identity{}},
		"a fork by replacement":          {replaced(t), identity{}},
		"its end is missing":             {whole[:len(whole)/2], identity{}},
		"a script":                       {[]byte("#!/bin/sh\n# " + module + "/plugins/main/bridge\nexec true\n"), identity{}},
		"nothing":                        {nil, identity{}},
		"another program in Go":          {self(t), identity{}},
	} {
		t.Run(name, func(t *testing.T) {
			got := identify("bridge", c.content)
			if c.want.stock {
				c.want.toolchain = runtime.Version()
			}
			if got != c.want {
				t.Errorf("got  %+v\nwant %+v", got, c.want)
			}
		})
	}
}

// withoutModules builds as Debian does, with GOPATH alone.
func withoutModules(t *testing.T) []byte {
	t.Helper()
	gopath := t.TempDir()
	dir := filepath.Join(gopath, "src", module)
	checkout(t, dir, module)
	testutil.Must(t, os.Remove(filepath.Join(dir, "go.mod")))
	return build(t, dir, module+"/plugins/main/bridge", []string{"GO111MODULE=off", "GOPATH=" + gopath}, "-trimpath")
}

func fork(t *testing.T, mod string) []byte {
	t.Helper()
	dir := t.TempDir()
	checkout(t, dir, mod)
	return build(t, dir, "./plugins/main/bridge", nil, "-ldflags", "-X "+buildVersion+"v1.8.0")
}

// replaced builds the stock package's path from another folder's code.
func replaced(t *testing.T) []byte {
	t.Helper()
	dir := t.TempDir()
	checkout(t, filepath.Join(dir, "fork"), module)
	gomod := "module example.com/a\n\ngo 1.26\n\nrequire " + module + " v1.8.0\n\nreplace " + module + " => ./fork\n"
	testutil.Must(t, os.WriteFile(filepath.Join(dir, "go.mod"), []byte(gomod), 0o644))
	return build(t, dir, module+"/plugins/main/bridge", nil, "-mod=mod")
}

func self(t *testing.T) []byte {
	t.Helper()
	content, err := os.ReadFile("/proc/self/exe")
	testutil.Must(t, err)
	return content
}

// The plugins of our image are built from the published module, by their build info.
func TestIdentifyPublished(t *testing.T) {
	got := identify("bridge", published(t))
	if !got.stock || !semver.IsValid(got.version) || got.sum == "" || got.toolchain != runtime.Version() {
		t.Errorf("got %+v", got)
	}
}

func TestTruncated(t *testing.T) {
	whole := release(t, "main/bridge", "v1.8.0")
	for _, size := range []int{10, 100, len(whole) / 3, len(whole) / 2} {
		if !truncated(whole[:size]) {
			t.Errorf("%d bytes of %d are taken for the whole", size, len(whole))
		}
	}
	for name, content := range map[string][]byte{"the whole": whole, "a script": []byte("#!/bin/sh\n"), "nothing": nil} {
		if truncated(content) {
			t.Errorf("the end of %s is missing", name)
		}
	}
}

func truncated(content []byte) bool {
	return errors.Is(checkProgram(bytes.NewReader(content), int64(len(content)), elf.EM_NONE), errTruncated)
}
