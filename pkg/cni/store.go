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
	"slices"

	"golang.org/x/sys/unix"

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
	// BinDir is the runtime's folder of plugins; empty: they are neither looked at nor watched.
	BinDir string
	// Lock is what Write must hold; nil: nothing.
	Lock *Lock
}

// tempSuffix makes names that are written to and then renamed into place. No
// runtime reads them, for it wants .conf, .conflist or .json. They are fixed, so
// that what a crash leaves is found: only one agent writes.
const tempSuffix = ".plainroute-new"

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
	c.Spec11 = len(l.CNIVersions) > 0
	c.Firewall = slices.ContainsFunc(l.Plugins, func(p plugin) bool { return p.Type == topology.FirewallPlugin })
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

// Write puts the config in place, and makes the run folder where it went away.
// containerd takes up a changed target only when the symlink itself is renamed into
// place again, so that is done each time.
func (s Store) Write(c topology.CNI) error {
	content, err := Render(c)
	if err != nil {
		return err
	}
	if err := errors.Join(s.makeRunDir(), s.Mounted()); err != nil {
		return err
	}
	if s.Lock != nil {
		if err := s.Lock.Renew(); err != nil {
			return err
		}
	}
	if err := replace(s.target(), func(temp string) error { return writeFile(temp, content) }); err != nil {
		return fmt.Errorf("writing the CNI config: %w", err)
	}
	if err := replace(s.link(), func(temp string) error { return os.Symlink(s.target(), temp) }); err != nil {
		return fmt.Errorf("putting the CNI config into %s: %w", s.ConfDir, err)
	}
	return nil
}

// replace makes something by a temporary name and renames it into place. It takes
// the place of anything but a folder, which is somebody's work.
func replace(path string, create func(temp string) error) error {
	temp := path + tempSuffix
	if err := unlink(temp); err != nil {
		return err
	}
	err := create(temp)
	if err == nil {
		if at, e := os.Lstat(path); e == nil && at.IsDir() {
			err = fmt.Errorf("%s is a folder, in the way of our file; remove it", path)
		} else {
			err = os.Rename(temp, path)
		}
	}
	if err != nil {
		return errors.Join(err, unlink(temp))
	}
	return nil
}

// writeFile writes a new file that all may read, whatever the umask, and follows
// no link to an old one (O_EXCL of open(2)).
func writeFile(path string, content []byte) error {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY|unix.O_NOFOLLOW, 0o644)
	if err != nil {
		return err
	}
	_, err = file.Write(content)
	return errors.Join(err, file.Chmod(0o644), file.Sync(), file.Close())
}

// unlink takes away anything but a folder, even an empty one, if it is there.
func unlink(path string) error {
	err := unix.Unlink(path)
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	return &os.PathError{Op: "removing", Path: path, Err: err}
}

// Sweep takes away what a crash in the midst of Write left. Of what it can't take
// away Write complains.
func (s Store) Sweep() {
	for _, path := range []string{s.link(), s.target()} {
		_ = unlink(path + tempSuffix)
	}
}

// Remove takes the config away. Until another one is there, the runtime can
// neither start nor stop pods.
func (s Store) Remove() error {
	for _, path := range []string{s.link(), s.target()} {
		if err := unlink(path); err != nil {
			return fmt.Errorf("removing the CNI config: %w", err)
		}
	}
	return nil
}

// The parts of a conflist of the CNI spec that we write.
type (
	conflist struct {
		CNIVersion  string   `json:"cniVersion"`
		CNIVersions []string `json:"cniVersions,omitempty"`
		Name        string   `json:"name"`
		Plugins     []plugin `json:"plugins"`
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
		Backend          string          `json:"backend,omitempty"`
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
// then portmap for hostPorts, then the firewall plugin if it is asked for.
func Render(c topology.CNI) ([]byte, error) {
	masq := false // the bridge plugin's own would hide pods from other nodes
	ranges := make([][]ipNet, 0, len(c.Subnets))
	for _, p := range c.Subnets {
		ranges = append(ranges, []ipNet{{p}})
	}
	plugins := []plugin{
		{
			Type: "bridge", Bridge: c.Bridge, IsDefaultGateway: true, ForceAddress: true, HairpinMode: true,
			IPMasq: &masq, MTU: c.MTU, IPAM: &ipam{Type: "host-local", DataDir: c.IPAMDir, Ranges: ranges},
		},
		{Type: "portmap", Capabilities: map[string]bool{"portMappings": true}},
	}
	if c.Firewall {
		plugins = append(plugins, plugin{Type: topology.FirewallPlugin, Backend: "iptables"})
	}
	list := conflist{CNIVersion: "1.0.0", Name: topology.Network, Plugins: plugins}
	if c.Spec11 {
		// A runtime takes the latest that it knows. One that does not know this list (libcni before
		// 1.2.0: containerd 1.6 and 1.7) takes cniVersion, and would refuse 1.1.0 there.
		list.CNIVersions = []string{"1.0.0", "1.1.0"}
	}
	content, err := json.MarshalIndent(list, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("rendering the CNI config: %w", err)
	}
	return append(content, '\n'), nil
}
