package cni

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/plainroute/plainroute/pkg/topology"
)

// CacheDir is where libcni, and so containerd and CRI-O, keep a file for each attachment from
// the end of its ADD to the end of its DEL (CacheDir of libcni/api.go). It outlives a reboot.
const CacheDir = "/var/lib/cni"

// An attachment is libcni's record of one (cachedInfo of libcni/api.go).
type attachment struct {
	Kind      string `json:"kind"`
	Network   string `json:"networkName"`
	Container string `json:"containerId"`
	Device    string `json:"ifName"`
}

// Attachments returns what is attached to our network according to the runtime's record: live pods,
// and dead sandboxes that are not detached yet. Without a cache there are none.
func Attachments(cacheDir string) ([]Holder, error) {
	dir := filepath.Join(cacheDir, "results")
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("reading which sandboxes the runtime has attached: %w", err)
	}
	var holders []Holder
	for _, e := range entries {
		var a attachment
		content, err := os.ReadFile(filepath.Join(dir, e.Name()))
		// A file that was removed meanwhile is of a detached sandbox; another format is not
		// libcni's.
		if err == nil && json.Unmarshal(content, &a) == nil && a.Kind == "cniCacheV1" && a.Network == topology.Network {
			holders = append(holders, Holder{a.Container, a.Device})
		}
	}
	return holders, nil
}
