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

// An attachment is what libcni writes of one (cachedInfo of libcni/api.go).
type attachment struct {
	Kind      string `json:"kind"`
	Network   string `json:"networkName"`
	Container string `json:"containerId"`
	Device    string `json:"ifName"`
}

// Attachments returns who is attached to our network, by the runtime's own account: pods that
// live, and dead sandboxes that it has yet to detach. Where there is no cache there is none.
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
		// What goes meanwhile is detached; what is no such file is not libcni's.
		if err == nil && json.Unmarshal(content, &a) == nil && a.Kind == "cniCacheV1" && a.Network == topology.Network {
			holders = append(holders, Holder{a.Container, a.Device})
		}
	}
	return holders, nil
}
