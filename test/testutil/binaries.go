package testutil

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// Root returns the module's folder: the working directory, or the nearest folder above it that has a go.mod. It returns
// the working directory if no folder has one, as for a test binary that was copied elsewhere.
func Root() string {
	here, err := os.Getwd()
	if err != nil {
		return "."
	}
	for dir := here; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		if dir == filepath.Dir(dir) {
			return here
		}
	}
}

// Path joins names to the module's folder.
func Path(names ...string) string { return filepath.Join(append([]string{Root()}, names...)...) }

// Binaries returns the value of an environment variable, such as CNI_BIN, or the path below bin/ in which `make assets
// build` puts the same.
func Binaries(variable string, below ...string) string {
	if value := os.Getenv(variable); value != "" {
		return value
	}
	return Path(append([]string{"bin"}, below...)...)
}

// Assets returns the folder of etcd and kube-apiserver.
func Assets() string { return Binaries("KUBEBUILDER_ASSETS", "k8s") }

// Plugins returns the folder of the stock CNI plugins.
func Plugins() string { return Binaries("CNI_BIN", "cni") }

// NeedPlugins returns the folder of the stock CNI plugins. It skips the test where they are missing.
func NeedPlugins(t testing.TB) string {
	t.Helper()
	dir := Plugins()
	if err := Present(filepath.Join(dir, "bridge")); err != nil {
		t.Skip(err)
	}
	return dir
}

// Agent returns the path of the plainroute binary.
func Agent() string { return Binaries("PLAINROUTE_BIN", "plainroute") }

// ControlPlane lists the binaries of an API server.
func ControlPlane(assets string) []string {
	return []string{filepath.Join(assets, "etcd"), filepath.Join(assets, "kube-apiserver")}
}

// Present returns nil if every file exists, or one error that names all missing files.
func Present(files ...string) error {
	var missing []error
	for _, file := range files {
		if _, err := os.Stat(file); err != nil {
			missing = append(missing, err)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return fmt.Errorf("binaries are missing, `make assets build` makes them:\n%w", errors.Join(missing...))
}
