package doctor

import (
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// A setting is a line of a config file with sections (systemd.syntax(7), NetworkManager.conf(5)).
type setting struct{ section, key, value, file string }

// fileLines returns the lines of a file, with continued ones joined; none if it can't be read.
func fileLines(path string) []string {
	content, _ := os.ReadFile(path)
	return strings.Split(strings.ReplaceAll(string(content), "\\\n", " "), "\n")
}

// readSettings reads files in their order. It ignores those that can't be read.
func readSettings(files []string) []setting {
	var all []setting
	for _, path := range files {
		section := ""
		for _, line := range fileLines(path) {
			line = strings.TrimSpace(line)
			if strings.HasPrefix(line, "[") && strings.HasSuffix(line, "]") {
				section = line[1 : len(line)-1]
			} else if key, value, ok := strings.Cut(line, "="); ok && line[0] != '#' && line[0] != ';' {
				all = append(all, setting{section, strings.TrimSpace(key), strings.TrimSpace(value), path})
			}
		}
	}
	return all
}

// lastSetting returns the last one of a key, which takes precedence.
func lastSetting(settings []setting, section, key string) (last setting, found bool) {
	for _, s := range settings {
		if s.section == section && s.key == key {
			last, found = s, true
		}
	}
	return last, found
}

// matchesAny reports whether a name matches one of the shell patterns.
func matchesAny(name string, patterns []string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool {
		ok, _ := path.Match(pattern, name) // a malformed one matches nothing
		return ok
	})
}

// isTrue and isFalse report whether a setting is on or off. Other values are neither.
func isTrue(value string) bool {
	return slices.Contains([]string{"yes", "y", "true", "t", "on", "1"}, strings.ToLower(value))
}

func isFalse(value string) bool {
	return slices.Contains([]string{"no", "n", "false", "f", "off", "0"}, strings.ToLower(value))
}

// configFiles lists the files of a suffix in folders of rising precedence, sorted by name. A file
// hides those of the same name in earlier folders.
func configFiles(suffix string, folders ...string) []string {
	byName := map[string]string{}
	for _, folder := range folders {
		paths, _ := filepath.Glob(filepath.Join(folder, "*"+suffix)) // never malformed
		for _, path := range paths {
			byName[filepath.Base(path)] = path
		}
	}
	return mapped(slices.Sorted(maps.Keys(byName)), func(name string) string { return byName[name] })
}
