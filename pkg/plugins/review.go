package plugins

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Review returns what Run would do with the named plugins that are there. It changes nothing. A
// plugin that From lacks is Kept.
func (i Install) Review() ([]Result, error) {
	root, err := os.OpenRoot(i.To)
	if err != nil {
		return nil, fmt.Errorf("opening the plugins' folder: %w", err)
	}
	defer root.Close()
	to := &folder{root: root}
	var results []Result
	for _, name := range i.Names {
		have, err := to.look(name)
		if err != nil {
			return nil, fmt.Errorf("reading the plugin %s: %w", name, err)
		}
		if have.kind == nothing {
			continue
		}
		ours, err := os.ReadFile(filepath.Join(i.From, name))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("reading our own plugin: %w", err)
		}
		results = append(results, decide(name, ours, have, i.Force))
	}
	return results, nil
}
