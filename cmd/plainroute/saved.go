//go:build linux

package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/client-go/rest"

	"github.com/plainroute/plainroute/pkg/cni"
	"github.com/plainroute/plainroute/pkg/nodes"
	"github.com/plainroute/plainroute/pkg/status"
)

// saveInterval is how often the Nodes are saved while the agent runs. They are saved at its end, so it
// matters after a crash.
const saveInterval = time.Minute

// savedNodes are the Nodes in the run folder, by which the next run starts.
type savedNodes struct {
	store    cni.Store
	source   *nodes.Source
	latest   *status.Latest
	identity nodes.Identity
	log      logr.Logger
	written  string // resource version of the file, if this run wrote it
}

// identityOf returns what saved Nodes depend on. The cluster is known by its CA, or by the API server's
// address if there is none.
func (f *agentFlags) identityOf(config *rest.Config, node string) (nodes.Identity, error) {
	cluster := config.CAData
	if len(cluster) == 0 && config.CAFile != "" {
		var err error
		if cluster, err = os.ReadFile(config.CAFile); err != nil {
			return nodes.Identity{}, fmt.Errorf("reading the API server's CA: %w", err)
		}
	}
	if len(cluster) == 0 {
		cluster = []byte(config.Host)
	}
	id := nodes.Identity{Version: version + " " + revision, Cluster: fmt.Sprintf("%x", sha256.Sum256(cluster)), Node: node}
	if f.ignoreNodesSelector != nil {
		id.Ignored = f.ignoreNodesSelector.String()
	}
	return id, nil
}

// restore has the source begin with the saved Nodes, if they can be used.
func (s *savedNodes) restore() {
	file, err := s.store.ReadNodes()
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	var saved *nodes.Saved
	if err == nil {
		saved, err = nodes.Decode(file, s.identity, time.Now())
	}
	if err != nil {
		s.log.Info("Ignored the saved Nodes", "reason", err.Error())
		return
	}
	s.source.Restore(saved)
	s.log.Info("Restored the saved Nodes", "nodes", len(saved.Nodes), "saved", saved.Time.Format(time.RFC3339))
}

// run saves the Nodes until ctx ends.
func (s *savedNodes) run(ctx context.Context) error {
	for {
		select {
		case <-time.After(saveInterval):
			s.save()
		case <-ctx.Done():
			return nil
		}
	}
}

// save saves the Nodes, unless the file has their version.
func (s *savedNodes) save() {
	saved, last := s.source.Saved(), s.latest.Last()
	if saved == nil || !last.Known || saved.ResourceVersion == s.written {
		return
	}
	saved.Identity, saved.Grants = s.identity, last.Desired.Grants()
	file, err := saved.Encode()
	if err == nil {
		err = s.store.WriteNodes(file)
	}
	if err != nil {
		s.log.Info("Failed to save the Nodes; the next start will list them", "error", err.Error())
		return
	}
	s.written = saved.ResourceVersion
}
