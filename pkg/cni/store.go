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

// Store is the place of our CNI config: a file in the run folder, which is empty after a reboot,
// and a symlink to it in the folder of the container runtime. So after a reboot a stale config
// can't make the Node Ready before the agent has run.
//
// Programs without access to the run folder can't follow the symlink. For them topology.LayoutGate
// keeps a regular file with the same content:
//
//	net.d/10-plainroute-gate.conflist -> RunDir/10-plainroute.conflist   the runtime loads it, because it is the first
//	net.d/10-plainroute.conflist                                         others read it, and append plugins to it
//
// After a reboot the gate is a dangling symlink. containerd then loads nothing, because it stops at
// the first file that it can't load (loadFromConfDir of containerd/go-cni). CRI-O tries the next
// one (loadNetworks of cri-o/ocicni), and so do meta plugins: with the regular file no pod can be
// attached until the file in the run folder exists, because host-local can't read it (see guarded).
type Store struct {
	ConfDir    string // the runtime's folder, /etc/cni/net.d by default
	RunDir     string // the folder of node-local state
	PluginsDir string // the folder of drop-in plugins; empty: none
	BinDir     string // the runtime's folder of plugins; empty: it is neither read nor watched
	Lock       *Lock  // must be held for Write; nil: none
}

// tempSuffix is that of files before they are renamed into place. Runtimes don't load them. The
// names are fixed, so that a file which a crash left is found.
const tempSuffix = ".plainroute-new"

func (s Store) link() string   { return filepath.Join(s.ConfDir, topology.Conflist) }
func (s Store) gate() string   { return filepath.Join(s.ConfDir, topology.Gate) }
func (s Store) target() string { return filepath.Join(s.RunDir, topology.Conflist) }

// Read returns our config, or nil if there is none that a runtime could load. If it can't be read,
// or differs from what Render writes, Read returns an empty one, so that it is written again; if
// the cause persists, Write returns it. If the files in the CNI folder differ from what Write
// leaves, the layout is topology.LayoutMixed.
func (s Store) Read() *topology.CNI {
	link, gate := s.kind(s.link()), s.kind(s.gate())
	have, err := os.ReadFile(s.target())
	switch {
	case link == absent && gate == absent:
		return nil
	case errors.Is(err, os.ErrNotExist) && link != foreign && gate != foreign:
		return nil
	case err != nil || link == foreign || gate == foreign:
		return &topology.CNI{}
	}
	c, guard := parse(have)
	if c == nil || guard != "" {
		c = &topology.CNI{}
	}
	c.Layout = topology.LayoutMixed
	switch {
	case link == linked && gate == absent:
		c.Layout = topology.LayoutLink
	case gate == linked && s.shares(*c):
		c.Layout = topology.LayoutGate
	case gate == absent && s.shares(*c):
		c.Layout = topology.LayoutFile
	}
	return c
}

type kind int

const (
	absent  kind = iota
	linked       // a symlink to the file in the run folder
	regular      // a regular file
	foreign      // a folder, another symlink
)

func (s Store) kind(path string) kind {
	at, err := os.Lstat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return absent
	case err != nil:
		return foreign
	case at.Mode().IsRegular():
		return regular
	}
	if to, err := os.Readlink(path); err == nil && to == s.target() {
		return linked
	}
	return foreign
}

// shares reports whether the regular file in the CNI folder equals a config as JSON, however
// another program formatted it.
func (s Store) shares(c topology.CNI) bool {
	have, err := readRegular(s.link(), maxConfigSize)
	if err != nil || s.kind(s.link()) != regular {
		return false
	}
	want, err := guarded(c, s.target())
	return err == nil && sameJSON(have, want)
}

// parse reads the variable parts of a config and its guard (see guarded). It returns nil unless the
// file is exactly as we write it. Only the bridge plugin's entry is decoded: other plugins may have
// other values of the same keys, such as "mtu": "9001".
func parse(have []byte) (c *topology.CNI, guard string) {
	var l struct {
		CNIVersions []string          `json:"cniVersions"`
		Plugins     []json.RawMessage `json:"plugins"`
	}
	var bridge plugin
	if json.Unmarshal(have, &l) != nil || len(l.Plugins) == 0 || json.Unmarshal(l.Plugins[0], &bridge) != nil || bridge.IPAM == nil {
		return nil, ""
	}
	c = &topology.CNI{Bridge: bridge.Bridge, MTU: bridge.MTU, IPAMDir: bridge.IPAM.DataDir, Spec11: len(l.CNIVersions) > 0}
	c.Plugins, c.Firewall, _ = further(have)
	for _, r := range slices.Concat(bridge.IPAM.Ranges...) {
		c.Subnets = append(c.Subnets, r.Subnet)
	}
	if want, err := guarded(*c, bridge.IPAM.ResolvConf); err != nil || !bytes.Equal(have, want) {
		return nil, ""
	}
	return c, bridge.IPAM.ResolvConf
}

// Write installs the config, and makes the run folder if it is missing. containerd notices a
// changed target only when the symlink is renamed into place again, so Write always does that. A
// regular file that is equal as JSON stays, because an installer that wrote it may watch it.
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
	seen := s.stamps()
	if s.outdated(c) {
		return nil // another program's change causes another pass
	}
	if err := replace(s.target(), seen, func(temp string) error { return writeFile(temp, content, 0o644) }); err != nil {
		return fmt.Errorf("writing the CNI config: %w", err)
	}
	if err := s.place(c, seen); err != nil && !errors.Is(err, errChanged) {
		return fmt.Errorf("putting the CNI config into %s: %w", s.ConfDir, err)
	}
	return nil
}

// errChanged is returned when another program changes a file just before we replace it. Its content
// stays, and causes another pass.
var errChanged = errors.New("changed meanwhile")

type stamp struct {
	inode uint64
	time  unix.Timespec
}

func stampOf(path string) stamp {
	var at unix.Stat_t
	if unix.Lstat(path, &at) != nil {
		return stamp{}
	}
	return stamp{at.Ino, at.Ctim}
}

func (s Store) stamps() map[string]stamp {
	return map[string]stamp{s.link(): stampOf(s.link()), s.gate(): stampOf(s.gate())}
}

// outdated reports whether other programs have appended or removed plugins since a config was
// computed.
func (s Store) outdated(c topology.CNI) bool {
	dropIns := slices.DeleteFunc(slices.Clone(c.Plugins), func(p topology.Plugin) bool { return p.File == "" })
	now := slices.DeleteFunc(withAppended(dropIns, s.latest()), func(p topology.Plugin) bool {
		return c.Firewall && p.File == "" && p.Type == topology.FirewallPlugin
	})
	return !slices.Equal(now, c.Plugins)
}

// place installs the layout's files in the CNI folder. The gate is created before the regular file
// and removed after it, so that with a gate no runtime sees the regular file alone.
func (s Store) place(c topology.CNI, seen map[string]stamp) error {
	symlink := func(path string) error {
		return replace(path, seen, func(temp string) error { return os.Symlink(s.target(), temp) })
	}
	switch c.Layout {
	case topology.LayoutGate:
		if err := symlink(s.gate()); err != nil {
			return err
		}
		return s.share(c, seen)
	case topology.LayoutFile:
		return errors.Join(s.share(c, seen), unlink(s.gate()))
	}
	return errors.Join(symlink(s.link()), unlink(s.gate()))
}

// share writes the regular file, which other programs read.
func (s Store) share(c topology.CNI, seen map[string]stamp) error {
	content, err := guarded(c, s.target())
	if err != nil || s.shares(c) {
		return err
	}
	return replace(s.link(), seen, func(temp string) error { return writeFile(temp, content, 0o644) })
}

// replace creates a file by a temporary name and renames it into place. It replaces anything but a
// folder, which can't be ours, and what has changed since it was seen.
func replace(path string, seen map[string]stamp, create func(temp string) error) error {
	temp := path + tempSuffix
	if err := unlink(temp); err != nil {
		return err
	}
	err := create(temp)
	if was, ok := seen[path]; err == nil && ok && stampOf(path) != was {
		err = errChanged
	}
	if at, e := os.Lstat(path); err == nil && e == nil && at.IsDir() {
		err = fmt.Errorf("%s is a folder in the place of our file; remove it", path)
	}
	if err == nil {
		err = os.Rename(temp, path)
	}
	if err != nil {
		return errors.Join(err, unlink(temp))
	}
	return nil
}

// writeFile creates a file with a mode, whatever the umask. It doesn't follow a symlink (O_EXCL of
// open(2)).
func writeFile(path string, content []byte, mode os.FileMode) error {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY|unix.O_NOFOLLOW, mode)
	if err != nil {
		return err
	}
	_, err = file.Write(content)
	return errors.Join(err, file.Chmod(mode), file.Sync(), file.Close())
}

// unlink removes anything but a folder, even an empty one, if it exists.
func unlink(path string) error {
	err := unix.Unlink(path)
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	return &os.PathError{Op: "removing", Path: path, Err: err}
}

// RemoveTemporary removes what a crash during Write left. Write returns the error of what can't be
// removed.
func (s Store) RemoveTemporary() {
	for _, path := range append(s.paths(), s.nodes()) {
		_ = unlink(path + tempSuffix)
	}
}

// paths returns those of our config, in the order of removal: no runtime sees the regular file
// without the gate.
func (s Store) paths() []string { return []string{s.link(), s.gate(), s.target()} }

// Remove removes the config. Until it is written again, the runtime can neither start nor stop
// pods.
func (s Store) Remove() error {
	for _, path := range s.paths() {
		if err := unlink(path); err != nil {
			return fmt.Errorf("removing the CNI config: %w", err)
		}
	}
	return nil
}

// The parts of a conflist that we write.
type (
	conflist struct {
		CNIVersion  string   `json:"cniVersion"`
		CNIVersions []string `json:"cniVersions,omitempty"`
		Name        string   `json:"name"`
		Plugins     []any    `json:"plugins"` // of type plugin, or json.RawMessage for another program's
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
		Type       string    `json:"type"`
		DataDir    string    `json:"dataDir"`
		ResolvConf string    `json:"resolvConf,omitempty"`
		Ranges     [][]ipNet `json:"ranges"`
	}
	ipNet struct {
		Subnet netip.Prefix `json:"subnet"`
	}
)

const firewallBackend = "iptables" // has the firewall plugin accept pods' packets in iptables' chain FORWARD

// Render returns the config as a file: the stock bridge plugin with host-local, portmap for
// hostPorts, the firewall plugin if it is on, then further plugins.
func Render(c topology.CNI) ([]byte, error) { return guarded(c, "") }

// guarded returns the config with a guard, if any: a file without which no pod is attached, because
// host-local fails an ADD when it can't read its resolvConf. From that file it takes the lines that
// begin with a word of resolv.conf(5), which JSON doesn't have. So with the file in the run folder
// as the guard, no pod is attached after a reboot before the agent has run.
func guarded(c topology.CNI, guard string) ([]byte, error) {
	masq := false // the bridge plugin's own would hide pods' addresses from other nodes
	ranges := make([][]ipNet, 0, len(c.Subnets))
	for _, p := range c.Subnets {
		ranges = append(ranges, []ipNet{{p}})
	}
	plugins := []any{
		plugin{
			Type: "bridge", Bridge: c.Bridge, IsDefaultGateway: true, ForceAddress: true, HairpinMode: true,
			IPMasq: &masq, MTU: c.MTU, IPAM: &ipam{Type: "host-local", DataDir: c.IPAMDir, ResolvConf: guard, Ranges: ranges},
		},
		plugin{Type: "portmap", Capabilities: map[string]bool{"portMappings": true}},
	}
	if c.Firewall {
		plugins = append(plugins, plugin{Type: topology.FirewallPlugin, Backend: firewallBackend})
	}
	for _, p := range c.Plugins {
		e, err := element(p)
		if err != nil {
			return nil, fmt.Errorf("rendering plugin %s: %w", p.Type, err)
		}
		plugins = append(plugins, e)
	}
	list := conflist{CNIVersion: "1.0.0", Name: topology.Network, Plugins: plugins}
	if c.Spec11 {
		// A runtime takes the latest version that it supports. One without support for this list
		// (libcni before 1.2.0: containerd 1.6 and 1.7) takes cniVersion, and refuses 1.1.0 there.
		list.CNIVersions = []string{"1.0.0", "1.1.0"}
	}
	content, err := json.MarshalIndent(list, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("rendering the CNI config: %w", err)
	}
	return append(content, '\n'), nil
}
