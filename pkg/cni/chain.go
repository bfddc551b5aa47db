package cni

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/topology"
)

const (
	// fileKey marks the plugins of drop-in files in our config, so that a plugin goes with its
	// file, also after a reboot. Plugins ignore unknown keys.
	fileKey = "plainroute.file"

	// maxPluginSize bounds a drop-in file, maxPlugins the number of plugins from drop-in files and
	// from other programs each, and maxConfigSize a config that other programs rewrote.
	maxPluginSize = 64 << 10
	maxPlugins    = 16
	maxConfigSize = 1 << 20
)

// pluginName is the name of a program in the runtime's folder of plugins.
var pluginName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]*$`)

// unchainable are stock plugins that make an interface of their own or give addresses
// (containernetworking/plugins), and portmap, which our config calls already.
var unchainable = []string{
	"bridge", "dummy", "host-device", "ipvlan", "loopback", "macvlan", "ptp", "tap", "vlan", "dhcp", "host-local", "static", "portmap",
}

// checkType returns an error if a plugin can't be chained after our own plugins.
func checkType(name string) error {
	switch {
	case name == "":
		return errors.New(`it has no "type", which names the plugin`)
	case !pluginName.MatchString(name):
		return fmt.Errorf("type %.100q is not the name of a program: letters, digits, hyphens, dots and underscores", name)
	case slices.Contains(unchainable, name):
		return fmt.Errorf("plugin %s can't be called after plainroute's own, which give the pod its interface, its addresses and its host ports", name)
	}
	return nil
}

// Plugins returns the plugins that are chained after our own: those of drop-in files in the order
// of the files' names, then those that other programs appended to our config. The problems name the
// files that are left out, with the reason. While the folder can't be read, its plugins stay as
// they are in the config.
func (s Store) Plugins() (plugins []topology.Plugin, problems []string) {
	latest := s.latest()
	dropIns, problems, err := s.dropIns()
	if err != nil {
		problems = append(problems, err.Error())
		dropIns = slices.DeleteFunc(slices.Clone(latest), func(p topology.Plugin) bool { return p.File == "" })
	}
	for _, p := range dropIns {
		if hasType(plugins, p.Type) {
			problems = append(problems, fmt.Sprintf("%s: a file before it has plugin %s already", filepath.Join(s.PluginsDir, p.File), p.Type))
			continue
		}
		plugins = append(plugins, p)
	}
	return withAppended(plugins, latest), problems
}

// withAppended returns the plugins of drop-in files, and after them those that other programs
// appended. Of identical entries one is kept, because an installer may have run twice. Different
// entries of one plugin are all called, such as tuning for settings and for an MTU.
func withAppended(dropIns, latest []topology.Plugin) []topology.Plugin {
	plugins := slices.Clone(dropIns)
	for _, p := range latest {
		if p.File == "" && !hasType(dropIns, p.Type) && !slices.Contains(plugins, p) {
			plugins = append(plugins, p)
		}
	}
	return plugins
}

func hasType(plugins []topology.Plugin, name string) bool {
	return slices.ContainsFunc(plugins, func(p topology.Plugin) bool { return p.Type == name })
}

func (s Store) dropIns() (plugins []topology.Plugin, problems []string, err error) {
	if s.PluginsDir == "" {
		return nil, nil, nil
	}
	entries, err := os.ReadDir(s.PluginsDir) // sorted by name
	if err != nil {
		return nil, nil, fmt.Errorf("reading the folder of drop-in plugins: %w", err)
	}
	for _, e := range entries {
		if name := e.Name(); name[0] == '.' || !slices.Contains([]string{".conf", ".json"}, filepath.Ext(name)) {
			continue // names with a leading dot belong to editors, and to the links in a mounted ConfigMap
		}
		path := filepath.Join(s.PluginsDir, e.Name())
		p, err := s.dropIn(path)
		if err == nil && len(plugins) == maxPlugins {
			err = fmt.Errorf("there are more than %d drop-in plugins", maxPlugins)
		}
		if err != nil {
			problems = append(problems, fmt.Sprintf("%s: %v", path, err))
			continue
		}
		plugins = append(plugins, p)
	}
	return plugins, problems, nil
}

func (s Store) dropIn(path string) (topology.Plugin, error) {
	content, err := readRegular(path, maxPluginSize)
	if err != nil {
		return topology.Plugin{}, err
	}
	if slices.Contains([]string{"", "null"}, string(bytes.TrimSpace(content))) {
		return topology.Plugin{}, errors.New("the file is empty")
	}
	entry, err := decodeEntry(content)
	if err != nil {
		return topology.Plugin{}, err
	}
	if _, ok := entry["plugins"]; ok {
		return topology.Plugin{}, errors.New(`it is a list ("plugins"); a drop-in file holds one plugin`)
	}
	p, err := entry.plugin()
	if err != nil {
		return topology.Plugin{}, err
	}
	p.File = filepath.Base(path)
	return p, s.installed(p.Type)
}

// installed returns an error if the folder of plugins can be read and lacks a plugin.
func (s Store) installed(plugin string) error {
	if s.BinDir == "" {
		return nil
	}
	if _, err := os.ReadDir(s.BinDir); err != nil {
		return nil // doctor reports why
	}
	at, err := os.Stat(filepath.Join(s.BinDir, plugin))
	switch {
	case errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("plugin %s is not in %s", plugin, s.BinDir)
	case err == nil && (!at.Mode().IsRegular() || at.Mode()&0o111 == 0):
		return fmt.Errorf("plugin %s in %s is not a program: %s", plugin, s.BinDir, at.Mode())
	}
	return nil
}

// readRegular reads a regular file of bounded size, through symlinks too. It does not block on a
// pipe.
func readRegular(path string, most int64) ([]byte, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, errors.Unwrap(err)
	}
	defer file.Close()
	at, err := file.Stat()
	if err == nil && !at.Mode().IsRegular() {
		err = fmt.Errorf("not a regular file: %s", at.Mode())
	}
	if err != nil {
		return nil, err
	}
	content, err := io.ReadAll(io.LimitReader(file, most+1))
	if err == nil && int64(len(content)) > most {
		err = fmt.Errorf("larger than %d bytes", most)
	}
	if err != nil {
		return nil, err
	}
	return content, nil
}

type entry map[string]any

func decodeEntry(content []byte) (e entry, err error) {
	d := json.NewDecoder(bytes.NewReader(content))
	d.UseNumber()
	if err = d.Decode(&e); err == nil && e == nil {
		err = errors.New("null")
	}
	if err == nil && d.More() {
		err = errors.New("something follows the object")
	}
	if err != nil {
		return nil, fmt.Errorf("not one JSON object: %w", err)
	}
	return e, nil
}

// plugin returns the entry as a plugin of the chain, or why it can't be one.
func (e entry) plugin() (topology.Plugin, error) {
	name, ok := e["type"].(string)
	if _, given := e["type"]; given && !ok {
		return topology.Plugin{}, errors.New(`"type" is not a string`)
	}
	if err := checkType(name); err != nil {
		return topology.Plugin{}, err
	}
	file, _ := e[fileKey].(string)
	delete(e, fileKey)
	content, err := json.Marshal(e) // with sorted keys
	if err != nil {
		return topology.Plugin{}, err
	}
	if err = json.Unmarshal(content, new(types.PluginConf)); err != nil { // other keys are the plugin's own
		err = fmt.Errorf("no runtime can load it: %w", err)
	}
	return topology.Plugin{Type: name, File: file, Config: string(content)}, err
}

// element returns the plugin as it stands in our config.
func element(p topology.Plugin) (json.RawMessage, error) {
	e, err := decodeEntry([]byte(p.Config))
	if err != nil {
		return nil, err
	}
	if p.File != "" {
		e[fileKey] = p.File
	}
	return json.Marshal(e)
}

// latest returns the further plugins of our config. Another program may have changed any of its
// files: installers write a new file over ours, or into it. A file that differs from what we write
// precedes one that doesn't, then the last one that was changed. The time alone does not suffice,
// because we may write one file after another program changed another one.
func (s Store) latest() []topology.Plugin {
	var plugins []topology.Plugin
	var last time.Time
	var edited bool
	for _, path := range []string{s.target(), s.link(), s.gate()} {
		var at unix.Stat_t
		if unix.Lstat(path, &at) != nil || at.Mode&unix.S_IFMT != unix.S_IFREG {
			continue
		}
		content, err := readRegular(path, maxConfigSize)
		if err != nil {
			continue
		}
		chain, _, ours := further(content)
		written, guard := parse(content)
		changed, others := time.Unix(at.Ctim.Unix()), written == nil || guard != "" && guard != s.target()
		if ours && (others && !edited || others == edited && !changed.Before(last)) {
			plugins, last, edited = chain, changed, others
		}
	}
	return plugins
}

// further returns the plugins beside our own in a config that is or was ours, whatever their place:
// they are called after our own, because a chained plugin needs an interface. Others are left out.
// firewall reports whether the config has our own firewall plugin and no other one.
func further(content []byte) (plugins []topology.Plugin, firewall, ours bool) {
	var l struct {
		Name    string  `json:"name"`
		Plugins []entry `json:"plugins"`
	}
	d := json.NewDecoder(bytes.NewReader(content))
	d.UseNumber()
	if d.Decode(&l) != nil || l.Name != topology.Network || !slices.ContainsFunc(l.Plugins, func(e entry) bool { return e["type"] == "bridge" }) {
		return nil, false, false
	}
	for _, e := range l.Plugins {
		if reflect.DeepEqual(e, entry{"type": topology.FirewallPlugin, "backend": firewallBackend}) {
			firewall = true
			continue
		}
		if p, err := e.plugin(); err == nil && len(plugins) < maxPlugins {
			plugins = append(plugins, p)
		}
	}
	return plugins, firewall && !hasType(plugins, topology.FirewallPlugin), true
}

func sameJSON(a, b []byte) bool {
	var x, y any
	return json.Unmarshal(a, &x) == nil && json.Unmarshal(b, &y) == nil && reflect.DeepEqual(x, y)
}
