package plugins

import (
	"debug/buildinfo"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/mod/semver"
)

// A plugin accepts the versions of the CNI spec that the library it is built with supports. 1.1.0
// came with version 1.2.0 of the library, and with version 1.6.0 of the stock plugins.
const (
	library  = "github.com/containernetworking/cni"
	libraryV = "v1.2.0"
)

// CNI11 returns which of the plugins are stock ones that accept CNI 1.1.0 according to their build
// info; nothing is executed. A plugin without build info is left out, and so is one that is
// missing.
func (f *Folder) CNI11(names []string) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(names), func(name string) bool {
		path := filepath.Join(f.Path, name)
		info, err := os.Stat(path)
		return err != nil || !f.accepts.get(name, info, func() bool { return acceptsCNI11(path, name) })
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
