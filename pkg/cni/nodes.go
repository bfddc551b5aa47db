package cni

import (
	"fmt"
	"path/filepath"
)

const maxNodesSize = 64 << 20 // many times the saved Nodes of the largest cluster, in bytes

// nodes is the file of the Nodes that a run of the agent leaves to the next one. It goes with a reboot,
// as the routes do.
func (s Store) nodes() string { return filepath.Join(s.RunDir, "nodes") }

// ReadNodes returns the saved Nodes. The error is one of open(2) if there are none.
func (s Store) ReadNodes() ([]byte, error) { return readRegular(s.nodes(), maxNodesSize) }

// WriteNodes replaces the saved Nodes as a whole.
func (s Store) WriteNodes(content []byte) error {
	if err := replace(s.nodes(), nil, func(temp string) error { return writeFile(temp, content, 0o600) }); err != nil {
		return fmt.Errorf("saving the Nodes: %w", err)
	}
	return nil
}
