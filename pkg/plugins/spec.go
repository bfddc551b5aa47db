package plugins

import (
	"debug/buildinfo"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/mod/semver"
)

// A plugin accepts the versions of the CNI spec that the library it is built with supports. 1.1.0
// came with version 1.2.0 of the library, and with version 1.6.0 of the stock plugins.
const (
	library  = "github.com/containernetworking/cni"
	libraryV = "v1.2.0"
)

// Speakers finds out which plugins accept CNI 1.1.0. It remembers the results for files that have
// not changed since. The zero Speakers is ready for use.
type Speakers struct {
	mu   sync.Mutex
	seen map[string]speaker
}

type speaker struct {
	size    int64
	changed time.Time
	accepts bool
}

// CNI11 returns which of the plugins in a folder are stock ones that accept CNI 1.1.0 according to
// their build info; nothing is executed. A plugin without build info is left out, and so is one
// that is missing.
func (s *Speakers) CNI11(dir string, names []string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(names), func(name string) bool { return !s.accepts(filepath.Join(dir, name), name) })
}

func (s *Speakers) accepts(path, name string) bool {
	at, err := os.Stat(path)
	if err != nil {
		return false
	}
	if known, ok := s.seen[path]; ok && known.size == at.Size() && known.changed.Equal(at.ModTime()) {
		return known.accepts
	}
	if s.seen == nil {
		s.seen = map[string]speaker{}
	}
	accepts := acceptsCNI11(path, name)
	s.seen[path] = speaker{at.Size(), at.ModTime(), accepts}
	return accepts
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
