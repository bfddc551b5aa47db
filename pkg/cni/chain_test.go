package cni

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/topology"
	"github.com/plainroute/plainroute/test/testutil"
)

// newChain makes a store with a folder of drop-in plugins and one of programs.
func newChain(t *testing.T, programs ...string) Store {
	t.Helper()
	s := newStore(t)
	dir := filepath.Dir(s.RunDir)
	s.PluginsDir, s.BinDir = filepath.Join(dir, "plugins.d"), filepath.Join(dir, "bin")
	testutil.Must(t, os.Mkdir(s.PluginsDir, 0o755))
	testutil.Must(t, os.Mkdir(s.BinDir, 0o755))
	for _, name := range programs {
		testutil.Must(t, os.WriteFile(filepath.Join(s.BinDir, name), []byte("#!/bin/sh\n"), 0o755))
	}
	return s
}

func (s Store) drop(t *testing.T, name, content string) {
	t.Helper()
	testutil.Must(t, os.WriteFile(filepath.Join(s.PluginsDir, name), []byte(content), 0o644))
}

// chain returns what a pass would write: dual-stack, with the plugins that are to be chained.
func (s Store) chain(t *testing.T, layout topology.Layout) topology.CNI {
	t.Helper()
	c := dualStack()
	c.IPAMDir, c.Layout = filepath.Join(s.RunDir, "ipam"), layout
	var faults []string
	if c.Plugins, faults = s.Plugins(); len(faults) > 0 {
		t.Errorf("faults: %q", faults)
	}
	return c
}

// settle writes until the actual config is the desired one, as passes do. It fails if that takes
// more than one write.
func (s Store) settle(t *testing.T, layout topology.Layout) topology.CNI {
	t.Helper()
	if want := s.chain(t, layout); !want.Equal(s.Read()) {
		testutil.Must(t, s.Write(want))
	}
	want := s.chain(t, layout)
	if got := s.Read(); !want.Equal(got) {
		t.Fatalf("read %+v, want %+v", got, want)
	}
	return want
}

// pluginTypes are the plugins that a runtime calls, in order.
func pluginTypes(t *testing.T, path string) []string {
	t.Helper()
	list, err := libcni.ConfListFromFile(path)
	testutil.Must(t, err)
	var names []string
	for _, p := range list.Plugins {
		names = append(names, p.Network.Type)
	}
	return names
}

func calls(t *testing.T, path string, want ...string) {
	t.Helper()
	if got := pluginTypes(t, path); !slices.Equal(got, want) {
		t.Errorf("%s calls %q, want %q", filepath.Base(path), got, want)
	}
}

func TestDropInPlugins(t *testing.T) {
	s := newChain(t, "bandwidth", "tuning", "sbr")
	s.drop(t, "20-tuning.conf", `{"type": "tuning", "sysctl": {"net.core.somaxconn": "500"}, "big": 12345678901234567890}`)
	s.drop(t, "10-bandwidth.json", ` {"type":"bandwidth","capabilities":{"bandwidth":true}} `)
	s.drop(t, "README", "not a plugin")
	s.drop(t, ".30-sbr.json.swp", "an editor's")
	s.drop(t, ".40-sbr.json", `{"type": "sbr"}`)
	c := s.settle(t, topology.LayoutLink)
	want := []topology.Plugin{
		{Type: "bandwidth", File: "10-bandwidth.json", Config: `{"capabilities":{"bandwidth":true},"type":"bandwidth"}`},
		{Type: "tuning", File: "20-tuning.conf", Config: `{"big":12345678901234567890,"sysctl":{"net.core.somaxconn":"500"},"type":"tuning"}`},
	}
	if !slices.Equal(c.Plugins, want) {
		t.Errorf("got %+v\nwant %+v", c.Plugins, want)
	}
	calls(t, s.link(), "bridge", "portmap", "bandwidth", "tuning")
	c.Firewall = true
	testutil.Must(t, s.Write(c))
	if got := s.Read(); !c.Equal(got) {
		t.Errorf("read %+v, want %+v", got, c)
	}
	calls(t, s.link(), "bridge", "portmap", "firewall", "bandwidth", "tuning")

	testutil.Must(t, os.Remove(filepath.Join(s.PluginsDir, "10-bandwidth.json")))
	s.settle(t, topology.LayoutLink)
	calls(t, s.link(), "bridge", "portmap", "tuning")
}

// Each kind of broken file is named with its cause, and keeps no other file out.
func TestBrokenDropInPlugins(t *testing.T) {
	for name, c := range map[string]struct{ content, fault string }{
		"empty":                {"", "empty"},
		"null":                 {"null", "empty"},
		"cut short":            {`{"type": "tuning"`, "not one JSON object"},
		"a list":               {`[{"type": "tuning"}]`, "not one JSON object"},
		"two objects":          {`{"type": "tuning"} {"type": "sbr"}`, "something follows the object"},
		"a conflist":           {`{"name": "x", "plugins": [{"type": "tuning"}]}`, "one plugin"},
		"no type":              {`{"capabilities": {}}`, `no "type"`},
		"type of another kind": {`{"type": 5}`, "not a string"},
		"a path":               {`{"type": "../tuning"}`, "not the name of a program"},
		"a newline":            {`{"type": "tuning\nx"}`, "not the name of a program"},
		"our own":              {`{"type": "bridge"}`, "can't be called after"},
		"our own address":      {`{"type": "host-local"}`, "can't be called after"},
		"our own host ports":   {`{"type": "portmap"}`, "can't be called after"},
		"another interface":    {`{"type": "ptp"}`, "can't be called after"},
		"not installed":        {`{"type": "vrf"}`, "vrf is not in "},
		"not executable":       {`{"type": "text"}`, "not a program"},
		"too large":            {`{"type": "tuning", "x": "` + strings.Repeat("x", maxPluginSize) + `"}`, "larger than 65536 bytes"},
		"capabilities as list": {`{"type": "tuning", "capabilities": ["bandwidth"]}`, "no runtime can load it: "},
		"capabilities as text": {`{"type": "tuning", "capabilities": {"bandwidth": "true"}}`, "no runtime can load it: "},
		"addresses as text":    {`{"type": "tuning", "ipam": "none"}`, "no runtime can load it: "},
		"a number for a name":  {`{"type": "tuning", "name": 5}`, "no runtime can load it: "},
		"nameserver as text":   {`{"type": "tuning", "dns": {"nameservers": "10.96.0.10"}}`, "no runtime can load it: "},
		"a result as list":     {`{"type": "tuning", "prevResult": []}`, "no runtime can load it: "},
		"a second one":         {`{"type": "bandwidth"}`, "a file before it has plugin bandwidth already"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newChain(t, "bandwidth", "tuning", "sbr")
			testutil.Must(t, os.WriteFile(filepath.Join(s.BinDir, "text"), nil, 0o644))
			s.drop(t, "10-bandwidth.json", `{"type": "bandwidth"}`)
			s.drop(t, "20-broken.json", c.content)
			s.drop(t, "30-sbr.json", `{"type": "sbr"}`)
			plugins, faults := s.Plugins()
			if len(plugins) != 2 || plugins[0].Type != "bandwidth" || plugins[1].Type != "sbr" {
				t.Errorf("got %+v", plugins)
			}
			if _, err := libcni.NetworkPluginConfFromBytes([]byte(c.content)); strings.HasPrefix(c.fault, "no runtime") && err == nil {
				t.Error("libcni loads it")
			}
			if len(faults) != 1 || !strings.HasPrefix(faults[0], filepath.Join(s.PluginsDir, "20-broken.json")+": ") || !strings.Contains(faults[0], c.fault) {
				t.Errorf("faults %q, want one of 20-broken.json with %q", faults, c.fault)
			}
		})
	}
}

func TestDropInsOfOddKinds(t *testing.T) {
	s := newChain(t, "tuning")
	testutil.Must(t, unix.Mkfifo(filepath.Join(s.PluginsDir, "10-pipe.json"), 0o644))
	testutil.Must(t, os.Mkdir(filepath.Join(s.PluginsDir, "20-folder.json"), 0o755))
	testutil.Must(t, os.Symlink("/nowhere", filepath.Join(s.PluginsDir, "30-dangling.json")))
	s.drop(t, ".data", `{"type": "tuning"}`)
	testutil.Must(t, os.Symlink(".data", filepath.Join(s.PluginsDir, "40-tuning.json"))) // as in a mounted ConfigMap
	plugins, faults := s.Plugins()
	if len(plugins) != 1 || plugins[0].File != "40-tuning.json" || len(faults) != 3 {
		t.Errorf("got %+v, faults %q", plugins, faults)
	}
	s.BinDir = filepath.Join(s.RunDir, "none") // not to be seen: nothing is known of what is there
	if plugins, _ := s.Plugins(); len(plugins) != 1 {
		t.Errorf("got %+v", plugins)
	}
}

func TestTooManyDropIns(t *testing.T) {
	s := newChain(t)
	s.BinDir = ""
	for i := range maxPlugins + 2 {
		s.drop(t, fmt.Sprintf("%02d.json", i), fmt.Sprintf(`{"type": "p%d"}`, i))
	}
	if plugins, faults := s.Plugins(); len(plugins) != maxPlugins || len(faults) != 2 || !strings.Contains(faults[1], "more than 16") {
		t.Errorf("%d plugins, faults %q", len(plugins), faults)
	}
}

// While the folder can't be read its plugins stay, because they were not removed.
func TestUnreadableFolderOfDropIns(t *testing.T) {
	s := newChain(t, "tuning")
	s.drop(t, "10-tuning.json", `{"type": "tuning"}`)
	want := s.settle(t, topology.LayoutGate)
	testutil.Must(t, os.Rename(s.PluginsDir, s.PluginsDir+".away"))
	plugins, faults := s.Plugins()
	if !slices.Equal(plugins, want.Plugins) || len(faults) != 1 || !strings.Contains(faults[0], s.PluginsDir) {
		t.Errorf("got %+v, faults %q", plugins, faults)
	}
	testutil.Must(t, os.Mkdir(s.PluginsDir, 0o755))
	s.settle(t, topology.LayoutGate)
	calls(t, s.gate(), "bridge", "portmap")
}

// Installers of service meshes put their plugin into the first config that they can read: istio-cni
// renames a file over it, linkerd-cni moves one there, others write into it.
func installers() map[string]func(path string, content []byte) error {
	return map[string]func(string, []byte) error{
		"rename": func(path string, content []byte) error {
			return errors.Join(os.WriteFile(path+".tmp", content, 0o644), os.Rename(path+".tmp", path))
		},
		"write": func(path string, content []byte) error { return os.WriteFile(path, content, 0o644) },
		"remove and create": func(path string, content []byte) error {
			return errors.Join(os.Remove(path), os.WriteFile(path, content, 0o600))
		},
	}
}

// edit changes the list of plugins as an installer does.
func edit(t *testing.T, write func(string, []byte) error, path string, change func([]any) []any) {
	t.Helper()
	content, err := os.ReadFile(path)
	testutil.Must(t, err)
	var l map[string]any
	testutil.Must(t, json.Unmarshal(content, &l))
	plugins, ok := l["plugins"].([]any)
	if !ok {
		t.Fatalf("%s has no plugins", path)
	}
	l["plugins"] = change(plugins)
	content, err = json.Marshal(l)
	testutil.Must(t, err)
	testutil.Must(t, write(path, content))
}

func mesh(version int) any { return map[string]any{"type": "mesh-cni", "version": version} }

func add(p any) func([]any) []any { return func(all []any) []any { return append(all, p) } }

func without(name string) func([]any) []any {
	return func(all []any) []any {
		return slices.DeleteFunc(all, func(p any) bool { e, _ := p.(map[string]any); return e["type"] == name })
	}
}

// Plugins that other programs append are kept in each file, follow later edits, survive our own
// changes and a reboot, and go when the program removes them.
func TestAppendedPluginIsKept(t *testing.T) {
	for _, layout := range []topology.Layout{topology.LayoutLink, topology.LayoutGate, topology.LayoutFile} {
		for name, write := range installers() {
			for _, path := range []func(Store) string{Store.link, Store.gate} {
				s := newChain(t, "bandwidth")
				s.settle(t, layout)
				if _, err := os.Lstat(path(s)); err != nil {
					continue // no gate in this layout
				}
				t.Run(fmt.Sprintf("%s %s %s", layout, name, filepath.Base(path(s))), func(t *testing.T) {
					keepsAppended(t, s, layout, write, path(s))
				})
			}
		}
	}
}

func keepsAppended(t *testing.T, s Store, layout topology.Layout, write func(string, []byte) error, path string) {
	runtimes := s.first(layout)
	edit(t, write, path, add(mesh(1)))
	s.settle(t, layout)
	calls(t, runtimes, "bridge", "portmap", "mesh-cni")
	calls(t, s.link(), "bridge", "portmap", "mesh-cni")

	edit(t, write, path, func(all []any) []any { return append(without("mesh-cni")(all), mesh(2)) })
	if c := s.settle(t, layout); c.Plugins[0].Config != `{"type":"mesh-cni","version":2}` {
		t.Errorf("got %+v", c.Plugins)
	}
	s.drop(t, "10-bandwidth.json", `{"type": "bandwidth"}`)
	s.settle(t, layout)
	calls(t, runtimes, "bridge", "portmap", "bandwidth", "mesh-cni")

	if layout != topology.LayoutLink { // a reboot
		testutil.Must(t, os.RemoveAll(s.RunDir))
		s.settle(t, layout)
		calls(t, runtimes, "bridge", "portmap", "bandwidth", "mesh-cni")
	}
	edit(t, write, path, without("mesh-cni"))
	s.settle(t, layout)
	calls(t, runtimes, "bridge", "portmap", "bandwidth")
	calls(t, s.link(), "bridge", "portmap", "bandwidth")
	testutil.Must(t, os.Remove(filepath.Join(s.PluginsDir, "10-bandwidth.json")))
	s.settle(t, layout)
	calls(t, runtimes, "bridge", "portmap")
}

// first is the file that a runtime loads.
func (s Store) first(layout topology.Layout) string {
	if layout == topology.LayoutGate {
		return s.gate()
	}
	return s.link()
}

// An installer watches what it wrote, so a file that equals the desired one as JSON stays as it is.
func TestInstallersFileIsLeftAlone(t *testing.T) {
	s := newChain(t)
	s.settle(t, topology.LayoutGate)
	edit(t, installers()["rename"], s.link(), add(mesh(1)))
	wrote, err := os.Stat(s.link())
	testutil.Must(t, err)
	s.settle(t, topology.LayoutGate)
	testutil.Must(t, s.Write(s.chain(t, topology.LayoutGate)))
	if now, err := os.Stat(s.link()); err != nil || !os.SameFile(wrote, now) || !now.ModTime().Equal(wrote.ModTime()) {
		t.Errorf("the installer's file was written anew: %v", err)
	}
	calls(t, s.gate(), "bridge", "portmap", "mesh-cni")
}

// Our own part is restored, and what was added stays.
func TestOurPartIsPutBack(t *testing.T) {
	for name, change := range map[string]func([]any) []any{
		"portmap removed": without("portmap"),
		"bridge changed": func(all []any) []any {
			bridge, _ := all[0].(map[string]any)
			bridge["mtu"] = 9000
			return all
		},
		"put first": func(all []any) []any { return append(all[:1:1], append([]any{mesh(1)}, all[1:]...)...) },
		"a firewall plugin of ours, which is not wanted": add(map[string]any{"type": "firewall", "backend": "iptables"}),
		"another interface": add(map[string]any{"type": "macvlan"}),
		"a path":            add(map[string]any{"type": "/bin/sh"}),
		"not to be loaded":  add(map[string]any{"type": "tuning", "capabilities": []string{"mac"}}),
		"an address":        add(map[string]any{"type": "host-local"}),
	} {
		for _, layout := range []topology.Layout{topology.LayoutLink, topology.LayoutGate, topology.LayoutFile} {
			t.Run(name+" "+string(layout), func(t *testing.T) {
				s := newChain(t)
				s.settle(t, layout)
				edit(t, installers()["rename"], s.link(), add(mesh(1)))
				s.settle(t, layout)
				edit(t, installers()["rename"], s.link(), change)
				if want := s.chain(t, layout); want.Equal(s.Read()) {
					t.Error("the change is not seen")
				}
				s.settle(t, layout)
				for _, path := range []string{s.first(layout), s.link()} {
					calls(t, path, "bridge", "portmap", "mesh-cni")
				}
			})
		}
	}
}

// Wherever another program puts its plugins, they are called after ours; of two identical entries
// one is called.
func TestPluginsOfAnyPlace(t *testing.T) {
	tuning := func(key, value string) any { return map[string]any{"type": "tuning", key: value} }
	for name, c := range map[string]struct {
		change func([]any) []any
		want   []string
	}{
		"before all":       {func(all []any) []any { return append([]any{mesh(1)}, all...) }, []string{"mesh-cni"}},
		"in another order": {func(all []any) []any { return []any{mesh(1), all[1], all[0], tuning("mtu", "1400")} }, []string{"mesh-cni", "tuning"}},
		"twice":            {func(all []any) []any { return append(all, mesh(1), mesh(1)) }, []string{"mesh-cni"}},
		"keys of ours": {func(all []any) []any {
			return append(all, map[string]any{"type": "aws-cni", "mtu": "9001", "bridge": 1, "isDefaultGateway": "no", "backend": []any{}})
		}, []string{"aws-cni"}},
		"two of one kind": {func(all []any) []any { return append(all, tuning("mac", "x"), mesh(1), tuning("mtu", "1400")) }, []string{"tuning", "mesh-cni", "tuning"}},
	} {
		for _, layout := range []topology.Layout{topology.LayoutLink, topology.LayoutGate, topology.LayoutFile} {
			t.Run(name+" "+string(layout), func(t *testing.T) {
				s := newChain(t, "bandwidth")
				s.settle(t, layout)
				edit(t, installers()["rename"], s.link(), c.change)
				s.settle(t, layout)
				s.drop(t, "10-bandwidth.json", `{"type": "bandwidth"}`)
				s.settle(t, layout)
				for _, path := range []string{s.first(layout), s.link()} {
					calls(t, path, append([]string{"bridge", "portmap", "bandwidth"}, c.want...)...)
				}
			})
		}
	}
}

// A foreign config by our name is replaced with all of its plugins, and damage removes none of the
// added plugins.
func TestOtherConfigsAddNothing(t *testing.T) {
	for name, content := range map[string]string{
		"another network": `{"cniVersion":"1.0.0","name":"mine","plugins":[{"type":"bridge"},{"type":"evil"}]}`,
		"another plugin":  `{"cniVersion":"1.0.0","name":"plainroute","plugins":[{"type":"ptp"},{"type":"evil"}]}`,
		"no plugins":      `{"cniVersion":"1.0.0","name":"plainroute","plugins":[]}`,
		"empty":           "", "cut short": `{"cniVersion":"1.0.0","na`, "null": "null", "list": "[]", "odd": `{"name":"plainroute","plugins":[null,5]}`,
		"too large": `{"name":"plainroute","plugins":[{"type":"bridge","x":"` + strings.Repeat("x", maxConfigSize) + `"},{"type":"evil"}]}`,
	} {
		for _, layout := range []topology.Layout{topology.LayoutLink, topology.LayoutGate, topology.LayoutFile} {
			t.Run(name+" "+string(layout), func(t *testing.T) {
				s := newChain(t)
				s.settle(t, layout)
				edit(t, installers()["rename"], s.link(), add(mesh(1)))
				s.settle(t, layout)
				testutil.Must(t, installers()["rename"](s.link(), []byte(content)))
				s.settle(t, layout)
				calls(t, s.first(layout), "bridge", "portmap", "mesh-cni")
				calls(t, s.link(), "bridge", "portmap", "mesh-cni")
			})
		}
	}
}

// Each layout follows each other, and leaves nothing of it.
func TestLayouts(t *testing.T) {
	files := map[topology.Layout][]string{
		topology.LayoutLink: {topology.Conflist}, topology.LayoutFile: {topology.Conflist}, topology.LayoutGate: {topology.Gate, topology.Conflist},
	}
	for from := range files {
		for to, want := range files {
			s := newChain(t)
			s.settle(t, from)
			s.settle(t, to)
			if got := list(t, s.ConfDir); !slices.Equal(got, want) {
				t.Errorf("from %q to %q: %q", from, to, got)
			}
			onlyConf(t, s.RunDir)
			if before := s.Before(); len(before) > 0 {
				t.Errorf("%q goes before our own config", before)
			}
			s.mends(t, to)
			testutil.Must(t, s.Remove())
			if left := slices.Concat(list(t, s.ConfDir), list(t, s.RunDir)); len(left) > 0 || s.Read() != nil {
				t.Errorf("Remove left %q", left)
			}
		}
	}
}

// mends has each file of a layout replaced and removed, and sees that it comes back.
func (s Store) mends(t *testing.T, layout topology.Layout) {
	t.Helper()
	want := s.chain(t, layout)
	for _, path := range s.Configs() {
		for name, damage := range map[string]func() error{
			"removed": func() error { return nil },
			"a link":  func() error { return os.Symlink("/nowhere", path) },
			"a file":  func() error { return os.WriteFile(path, []byte("{}"), 0o644) },
		} {
			testutil.Must(t, os.Remove(path))
			testutil.Must(t, damage())
			if got := s.Read(); want.Equal(got) {
				t.Errorf("%s %s is not seen: %+v", path, name, got)
			}
			s.settle(t, layout)
		}
	}
}

// Before a reboot and after it: what the folder alone gives, and what a runtime loads.
func TestReadableFromItsFolderAlone(t *testing.T) {
	s := newChain(t)
	s.settle(t, topology.LayoutGate)
	calls(t, s.gate(), "bridge", "portmap")
	run := s.RunDir + ".away" // as where the CNI folder alone is mounted
	testutil.Must(t, os.Rename(s.RunDir, run))
	calls(t, s.link(), "bridge", "portmap")
	if at, err := os.Lstat(s.link()); err != nil || !at.Mode().IsRegular() || at.Mode().Perm() != 0o644 {
		t.Errorf("%v, %v", at, err)
	}
	if _, err := libcni.ConfListFromFile(s.gate()); err == nil {
		t.Error("a runtime can load its config after a reboot")
	}
	if got := s.Read(); got != nil {
		t.Errorf("read %+v, want none", got)
	}
	names := list(t, s.ConfDir)
	if names[0] != topology.Gate {
		t.Errorf("the runtime takes the first of %q", names)
	}
}

// The regular file differs from the runtime's in the guard alone.
func TestGuard(t *testing.T) {
	s := newChain(t)
	c := s.settle(t, topology.LayoutGate)
	shared, err := os.ReadFile(s.link())
	testutil.Must(t, err)
	guard := fmt.Sprintf("        \"resolvConf\": %q,\n", s.target())
	if plain := strings.Replace(string(shared), guard, "", 1); plain != string(render(t, c)) || plain == string(shared) {
		t.Errorf("the regular file is %s", shared)
	}
}

func TestBeforeOurs(t *testing.T) {
	for name, ok := range map[string]bool{
		"00-multus.conf": true, "05-other.conflist": true, "10-a.json": true, "10-plainroute.conflist": false, topology.Gate: false,
		"99-other.conf": false, "a/00-x.conf": false, "": false, "..": false, "00-multus": false, "00 multus.con f": false,
	} {
		if err := CheckBefore(name); (err == nil) != ok {
			t.Errorf("%q: %v", name, err)
		}
	}
	s := newChain(t)
	s.settle(t, topology.LayoutGate)
	for _, name := range []string{"00-multus.conf", "05-x.txt", "10-plainroute-h.conflist", "99-z.conf"} {
		testutil.Must(t, os.WriteFile(filepath.Join(s.ConfDir, name), nil, 0o644))
	}
	if got := s.Before(); !slices.Equal(got, []string{"00-multus.conf"}) {
		t.Errorf("got %q", got)
	}
	s.settle(t, topology.LayoutFile)
	if got := s.Before(); !slices.Equal(got, []string{"00-multus.conf", "10-plainroute-h.conflist"}) {
		t.Errorf("without a gate got %q", got)
	}
}

func TestChained(t *testing.T) {
	c := topology.CNI{Plugins: []topology.Plugin{{Type: "a"}, {Type: "b"}}}
	if got := Chained(&c); !reflect.DeepEqual(got, []string{"a", "b"}) || Chained(nil) != nil {
		t.Errorf("got %q", got)
	}
}

// A plugin that is appended, changed or removed after a pass has read the config is not reverted by
// that pass.
func TestWriteOfAnOldLook(t *testing.T) {
	for _, layout := range []topology.Layout{topology.LayoutLink, topology.LayoutGate, topology.LayoutFile} {
		s := newChain(t, "bandwidth")
		s.settle(t, layout)
		edit(t, installers()["rename"], s.link(), add(mesh(1)))
		s.settle(t, layout)
		s.drop(t, "10-bandwidth.json", `{"type": "bandwidth"}`)
		old := s.chain(t, layout)
		edit(t, installers()["rename"], s.link(), without("mesh-cni"))
		testutil.Must(t, s.Write(old))
		old = s.settle(t, layout)
		calls(t, s.first(layout), "bridge", "portmap", "bandwidth")
		calls(t, s.link(), "bridge", "portmap", "bandwidth")

		old.MTU = 1400
		edit(t, installers()["rename"], s.link(), add(mesh(2)))
		testutil.Must(t, s.Write(old))
		s.settle(t, layout)
		calls(t, s.first(layout), "bridge", "portmap", "bandwidth", "mesh-cni")
		calls(t, s.link(), "bridge", "portmap", "bandwidth", "mesh-cni")
	}
}

// An installer may write at any moment of an agent that writes all the time. Its change is lost
// only between the last read and the rename, which is why installers watch what they wrote.
func TestInstallerAgainstWriter(t *testing.T) {
	for _, layout := range []topology.Layout{topology.LayoutLink, topology.LayoutGate} {
		s := newChain(t)
		s.settle(t, layout)
		w := startWriter(t, s, layout)
		lost := 0
		for i := range 20 {
			for there, change := range map[bool]func([]any) []any{true: add(mesh(i)), false: without("mesh-cni")} {
				edit(t, installers()["rename"], s.link(), change)
				w.await(2)
				if slices.Contains(pluginTypes(t, s.first(layout)), "mesh-cni") != there {
					lost++
				}
			}
		}
		w.end()
		t.Logf("layout %q: %d of 40 changes were lost", layout, lost)
		if lost > 8 {
			t.Errorf("layout %q: %d of 40 changes were lost", layout, lost)
		}
	}
}

// A writer is an agent whose own part of the config changes with each pass.
type writer struct {
	passes        atomic.Int64
	stop, stopped chan struct{}
}

func startWriter(t *testing.T, s Store, layout topology.Layout) *writer {
	t.Helper()
	w := &writer{stop: make(chan struct{}), stopped: make(chan struct{})}
	c := dualStack()
	c.IPAMDir, c.Layout = filepath.Join(s.RunDir, "ipam"), layout
	go func() {
		defer close(w.stopped)
		for {
			select {
			case <-w.stop:
				return
			default:
			}
			c.MTU = 2900 - c.MTU
			c.Plugins, _ = s.Plugins()
			if err := s.Write(c); err != nil {
				t.Error(err)
			}
			w.passes.Add(1)
		}
	}()
	return w
}

// await waits for passes that begin and end from now on.
func (w *writer) await(passes int64) {
	for until := w.passes.Load() + passes + 1; w.passes.Load() < until; {
		time.Sleep(time.Millisecond)
	}
}

func (w *writer) end() {
	close(w.stop)
	<-w.stopped
}
