package plugins

import (
	"bytes"
	"debug/buildinfo"
	"os"
	"path"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"

	"golang.org/x/mod/semver"
)

// module is that of the stock plugins, and buildVersion its variable that a release's build sets to
// the version (its scripts/release.sh).
const (
	module       = "github.com/containernetworking/plugins"
	buildVersion = module + "/pkg/utils/buildversion.BuildVersion="
)

// identity is what the Go build info of a binary contains. Nothing is executed to read it.
type identity struct {
	stock     bool   // it was built from the stock plugin of this name
	version   string // as in v1.9.1, or "" if the binary has none
	sum       string // of the published module; "" for a checkout, which may contain anything
	toolchain string // the version of Go, as in go1.26.8
}

// identify reads the build info of the plugin called name. A file without one, such as a script, is
// not stock.
//
// There are three kinds of stock plugins. Releases are built in a checkout: the main module has no
// version, or git's, and the linker's flags have the release's. Ours and those of `go install` are
// built from the published module, with a version and a sum. Debian's are built without modules and
// have no version.
func identify(name string, content []byte) identity {
	info, err := buildinfo.Read(bytes.NewReader(content))
	if err != nil || !stock(name, info) {
		return identity{}
	}
	id := identity{stock: true, version: versionOf(info), toolchain: info.GoVersion}
	if info.Main.Path == module {
		id.sum = info.Main.Sum
	}
	return id
}

// stock reports whether the main package is .../plugins/KIND/NAME of the stock module itself, not
// of a fork with the same name.
func stock(name string, info *debug.BuildInfo) bool {
	kind, rest := path.Split(strings.TrimPrefix(info.Path, module+"/plugins/"))
	if rest != name || (kind != "main/" && kind != "ipam/" && kind != "meta/") {
		return false
	}
	return info.Main.Replace == nil && (info.Main.Path == "" || info.Main.Path == module)
}

// versionOf prefers the version in the linker's flags, of a release, to git's.
func versionOf(info *debug.BuildInfo) string {
	for _, setting := range info.Settings {
		if setting.Key != "-ldflags" {
			continue
		}
		if _, after, found := strings.Cut(setting.Value, buildVersion); found {
			version, _, _ := strings.Cut(after, " ")
			return plain(strings.Trim(version, `'"`))
		}
	}
	return plain(info.Main.Version)
}

// plain returns a version that can be compared, else "". A +suffix means that the source was
// changed, and v0.0.0 a checkout without tags.
func plain(version string) string {
	if !semver.IsValid(version) || semver.Build(version) != "" || core(version) == "v0.0.0" {
		return ""
	}
	return version
}

// core is a version without what follows a hyphen. Distributors append that to the version that
// they patch (v1.7.1-k3s1), so it means neither newer nor older.
func core(version string) string {
	before, _, _ := strings.Cut(semver.Canonical(version), "-")
	return before
}

// A plugin accepts the versions of the CNI spec that the library it is built with supports. 1.1.0
// came with version 1.2.0 of the library, and with version 1.6.0 of the stock plugins.
const (
	library  = "github.com/containernetworking/cni"
	libraryV = "v1.2.0"
)

// CNI11 returns which of the plugins are stock ones that accept CNI 1.1.0 according to their build
// info; nothing is executed. A plugin without build info is left out, and so is one that is missing.
func (f *Folder) CNI11(names []string) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(names), func(name string) bool {
		path := filepath.Join(f.Path, name)
		info, err := os.Stat(path)
		return err != nil || !f.cni11.get(name, info, func() bool { return acceptsCNI11(path, name) })
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
