// Package cni renders our CNI config and keeps it in the folder from which the
// container runtime reads.
package cni

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/plainroute/plainroute/pkg/topology"
)

// Store is where our CNI config lives: a file in the run folder, which a reboot
// empties, and a symlink to it in the folder of the container runtime. So after
// a reboot a stale config can't make the Node Ready before the agent has run.
type Store struct {
	// ConfDir is the runtime's folder, /etc/cni/net.d by default.
	ConfDir string
	// RunDir is the folder of node-local state.
	RunDir string
}

func (s Store) link() string   { return filepath.Join(s.ConfDir, topology.Conflist) }
func (s Store) target() string { return filepath.Join(s.RunDir, topology.Conflist) }

// Read returns our config, or nil if there is none that a runtime could load. One
// that can't be read, or is not as Render makes it, gives an empty one, to be
// written anew: what keeps it from being read is no reason to do nothing at all,
// and if it persists, Write says so.
func (s Store) Read() *topology.CNI {
	to, err := os.Readlink(s.link())
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil || to != s.target() {
		// Something else has our name: a file, a folder, another link.
		return &topology.CNI{}
	}
	have, err := os.ReadFile(s.target())
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return parse(have)
}

// parse reads what varies in a config, and the empty one if it is not ours.
func parse(have []byte) *topology.CNI {
	var l conflist
	if json.Unmarshal(have, &l) != nil || len(l.Plugins) == 0 || l.Plugins[0].IPAM == nil {
		return &topology.CNI{}
	}
	bridge := l.Plugins[0]
	c := topology.CNI{Bridge: bridge.Bridge, MTU: bridge.MTU, IPAMDir: bridge.IPAM.DataDir}
	for _, set := range bridge.IPAM.Ranges {
		for _, r := range set {
			c.Subnets = append(c.Subnets, r.Subnet)
		}
	}
	if want, err := Render(c); err != nil || !bytes.Equal(have, want) {
		return &topology.CNI{}
	}
	return &c
}

// Write puts the config in place. containerd takes up a changed target only when
// the symlink itself is renamed into place again, so that is done each time; the
// temporary names end so that no runtime reads them.
func (s Store) Write(c topology.CNI) error {
	content, err := Render(c)
	if err != nil {
		return err
	}
	if err := s.writeTarget(content); err != nil {
		return fmt.Errorf("writing the CNI config: %w", err)
	}
	if err := s.writeLink(); err != nil {
		return fmt.Errorf("putting the CNI config into %s: %w", s.ConfDir, err)
	}
	return nil
}

func (s Store) writeTarget(content []byte) error {
	temp, err := os.CreateTemp(s.RunDir, ".conflist-*")
	if err != nil {
		return err
	}
	defer os.Remove(temp.Name())
	_, err = temp.Write(content)
	err = errors.Join(err, temp.Chmod(0o644), temp.Sync(), temp.Close())
	if err != nil {
		return err
	}
	return rename(temp.Name(), s.target())
}

// rename replaces anything but a folder, which is somebody's work.
func rename(from, to string) error {
	if at, err := os.Lstat(to); err == nil && at.IsDir() {
		return fmt.Errorf("%s is a folder, in the way of our file; remove it", to)
	}
	return os.Rename(from, to)
}

func (s Store) writeLink() error {
	temp := s.link() + ".plainroute-new"
	if err := os.Remove(temp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.Symlink(s.target(), temp); err != nil {
		return err
	}
	if err := rename(temp, s.link()); err != nil {
		return errors.Join(err, os.Remove(temp))
	}
	return nil
}

// Remove takes the config away. Until another one is there, the runtime can
// neither start nor stop pods.
func (s Store) Remove() error {
	for _, path := range []string{s.link(), s.target()} {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("removing the CNI config: %w", err)
		}
	}
	return nil
}

// The parts of a conflist of the CNI spec 1.0.0 that we write.
type (
	conflist struct {
		CNIVersion string   `json:"cniVersion"`
		Name       string   `json:"name"`
		Plugins    []plugin `json:"plugins"`
	}
	plugin struct {
		Type             string          `json:"type"`
		Bridge           string          `json:"bridge,omitempty"`
		IsDefaultGateway bool            `json:"isDefaultGateway,omitempty"`
		ForceAddress     bool            `json:"forceAddress,omitempty"`
		HairpinMode      bool            `json:"hairpinMode,omitempty"`
		IPMasq           *bool           `json:"ipMasq,omitempty"`
		MTU              int             `json:"mtu,omitempty"`
		IPAM             *ipam           `json:"ipam,omitempty"`
		Capabilities     map[string]bool `json:"capabilities,omitempty"`
	}
	ipam struct {
		Type    string    `json:"type"`
		DataDir string    `json:"dataDir"`
		Ranges  [][]ipNet `json:"ranges"`
	}
	ipNet struct {
		Subnet netip.Prefix `json:"subnet"`
	}
)

// Render gives the config as a file: the stock bridge plugin with host-local,
// then portmap for hostPorts.
func Render(c topology.CNI) ([]byte, error) {
	masq := false // the bridge plugin's own would hide pods from other nodes
	ranges := make([][]ipNet, 0, len(c.Subnets))
	for _, p := range c.Subnets {
		ranges = append(ranges, []ipNet{{p}})
	}
	content, err := json.MarshalIndent(conflist{
		CNIVersion: "1.0.0",
		Name:       topology.Network,
		Plugins: []plugin{
			{
				Type: "bridge", Bridge: c.Bridge, IsDefaultGateway: true, ForceAddress: true, HairpinMode: true,
				IPMasq: &masq, MTU: c.MTU, IPAM: &ipam{Type: "host-local", DataDir: c.IPAMDir, Ranges: ranges},
			},
			{Type: "portmap", Capabilities: map[string]bool{"portMappings": true}},
		},
	}, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("rendering the CNI config: %w", err)
	}
	return append(content, '\n'), nil
}
