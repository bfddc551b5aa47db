package doctor

import (
	"bufio"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// A setting is a line of a config file with sections (systemd.syntax(7), NetworkManager.conf(5)).
type setting struct{ section, key, value, file string }

// readSettings reads files in their order. It ignores those that can't be read.
func readSettings(files []string) []setting {
	var all []setting
	for _, path := range files {
		content, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		section := ""
		lines := bufio.NewScanner(strings.NewReader(strings.ReplaceAll(string(content), "\\\n", " ")))
		for lines.Scan() {
			line := strings.TrimSpace(lines.Text())
			if strings.HasPrefix(line, "[") && strings.HasSuffix(line, "]") {
				section = line[1 : len(line)-1]
			} else if key, value, ok := strings.Cut(line, "="); ok && line[0] != '#' && line[0] != ';' {
				all = append(all, setting{section, strings.TrimSpace(key), strings.TrimSpace(value), path})
			}
		}
	}
	return all
}

// configFiles lists the files of a suffix in folders of rising precedence, sorted by name. A file
// hides those of the same name in earlier folders.
func configFiles(suffix string, folders ...string) []string {
	byName := map[string]string{}
	for _, folder := range folders {
		paths, _ := filepath.Glob(filepath.Join(folder, "*"+suffix)) // no fault of a pattern of ours
		for _, path := range paths {
			byName[filepath.Base(path)] = path
		}
	}
	var files []string
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		files = append(files, byName[name])
	}
	return files
}
