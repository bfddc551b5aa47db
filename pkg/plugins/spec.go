package plugins

import (
	"debug/buildinfo"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"golang.org/x/mod/semver"
)

// A plugin accepts the versions of the CNI spec that the library it is built with supports. 1.1.0
// came with version 1.2.0 of the library, and with version 1.6.0 of the stock plugins.
const (
	library  = "github.com/containernetworking/cni"
	libraryV = "v1.2.0"
)

// SpecCache remembers which plugins accept CNI 1.1.0. The zero SpecCache is ready for use.
type SpecCache struct {
	mu      sync.Mutex
	accepts cache[bool]
}

// CNI11 returns which of the plugins in a folder are stock ones that accept CNI 1.1.0 according to
// their build info; nothing is executed. A plugin without build info is left out, and so is one
// that is missing.
func (s *SpecCache) CNI11(dir string, names []string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(names), func(name string) bool {
		path := filepath.Join(dir, name)
		info, err := os.Stat(path)
		return err != nil || !s.accepts.get(path, info, func() bool { return acceptsCNI11(path, name) })
	})
}

func acceptsCNI11(path, name string) bool {
	info, err := buildinfo.ReadFile(path)
	if err != nil || !stock(name, info) {
		return false
	}
	for _, dep := range info.Deps {
		if dep.Path == library && dep.Replace == nil {
			return semver.Compare(dep.Version, libraryV) >= 0
		}
	}
	return false
}
