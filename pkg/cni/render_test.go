package cni

import (
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"pgregory.net/rapid"

	"github.com/plainroute/plainroute/pkg/topology"
	"github.com/plainroute/plainroute/test/testutil"
)

func TestRenderGolden(t *testing.T) {
	withFirewall := dualStack()
	withFirewall.Firewall = true
	latest := dualStack()
	latest.Spec11 = true
	for file, conf := range map[string]topology.CNI{
		"dual-stack.conflist": dualStack(), "firewall.conflist": withFirewall, "spec-1.1.conflist": latest,
	} {
		want, err := os.ReadFile(filepath.Join("testdata", file))
		testutil.Must(t, err)
		if got := render(t, conf); string(got) != string(want) {
			t.Errorf("got:\n%s\nwant %s:\n%s", got, file, want)
		}
	}
}

// Runtimes load the config as libcni does: all files of these suffixes, by name.
func TestRuntimeLoadsTheConfig(t *testing.T) {
	s := newStore(t)
	testutil.Must(t, s.Write(dualStack()))
	testutil.Must(t, os.WriteFile(s.link()+".plainroute-new", nil, 0o644)) // as a crash would leave it
	files, err := libcni.ConfFiles(s.ConfDir, []string{".conf", ".conflist", ".json"})
	testutil.Must(t, err)
	if !slices.Equal(files, []string{filepath.Join(s.ConfDir, topology.Conflist)}) {
		t.Fatalf("a runtime would load %q", files)
	}
	conf, err := libcni.ConfListFromFile(files[0])
	testutil.Must(t, err)
	if conf.Name != "plainroute" || conf.CNIVersion != "1.0.0" || len(conf.Plugins) != 2 {
		t.Fatalf("libcni reads %s of version %s with %d plugins", conf.Name, conf.CNIVersion, len(conf.Plugins))
	}
	bridge, portmap := conf.Plugins[0].Network, conf.Plugins[1].Network
	if bridge.Type != "bridge" || bridge.IPAM.Type != "host-local" || portmap.Type != "portmap" || !portmap.Capabilities["portMappings"] {
		t.Errorf("plugins are %+v and %+v", bridge, portmap)
	}
}

// A runtime takes the latest version of the spec that it supports. Those without support for a list
// of versions, as containerd 1.6 and 1.7, find theirs in cniVersion.
func TestRuntimeTakesTheLatestVersion(t *testing.T) {
	latest := dualStack()
	latest.Spec11 = true
	content := render(t, latest)
	conf, err := libcni.NetworkConfFromBytes(content)
	testutil.Must(t, err)
	if conf.CNIVersion != "1.1.0" {
		t.Errorf("libcni takes %s", conf.CNIVersion)
	}
	var old struct{ CNIVersion string }
	testutil.Must(t, json.Unmarshal(content, &old))
	if old.CNIVersion != "1.0.0" {
		t.Errorf("an old runtime takes %s", old.CNIVersion)
	}
}

// These options of the bridge plugin must be explicit, because its defaults differ.
func TestBridgeSettings(t *testing.T) {
	var conf struct{ Plugins []map[string]any }
	testutil.Must(t, json.Unmarshal(render(t, dualStack()), &conf))
	for key, want := range map[string]any{
		"bridge": "plainroute0", "isDefaultGateway": true, "forceAddress": true, "hairpinMode": true,
		"ipMasq": false, // it would hide pods from other nodes
		"mtu":    1500.0,
	} {
		if got := conf.Plugins[0][key]; got != want {
			t.Errorf("%s is %v, want %v", key, got, want)
		}
	}
}

func TestReadGivesWhatWasRendered(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := topology.CNI{
			Bridge:  rapid.String().Draw(t, "bridge"),
			MTU:     rapid.IntRange(0, 65535).Draw(t, "mtu"),
			IPAMDir: rapid.String().Draw(t, "dir"),

			Firewall: rapid.Bool().Draw(t, "firewall"),
			Spec11:   rapid.Bool().Draw(t, "spec11"),
		}
		for _, base := range []string{"10.244.0.0/16", "fd00:10:244::/48"} {
			if rapid.Bool().Draw(t, base) {
				c.Subnets = append(c.Subnets, netip.MustParsePrefix(base))
			}
		}
		content, err := Render(c)
		if err != nil {
			t.Fatal(err)
		}
		if got := parsed(content); !reflect.DeepEqual(got, &c) {
			t.Fatalf("got %+v, want %+v", got, c)
		}
	})
}

// A truncated or changed config is written again.
func TestDamagedConfigIsEmpty(t *testing.T) {
	whole := render(t, dualStack())
	for n := range whole {
		if got := parsed(whole[:n]); !reflect.DeepEqual(got, &topology.CNI{}) {
			t.Fatalf("of %d bytes read %+v", n, got)
		}
		garbled := slices.Clone(whole)
		garbled[n] ^= 1
		if got := parsed(garbled); reflect.DeepEqual(got, &topology.CNI{}) {
			continue
		} else if again := render(t, *got); string(again) != string(garbled) {
			t.Fatalf("with byte %d changed read %+v, which is another config", n, got)
		}
	}
	for _, s := range []string{"null", "[]", "0", `{"plugins":[]}`, `{"plugins":[{}]}`, `{"plugins":[{"ipam":{}}]}`, string(whole) + " ", "\x00"} {
		if got := parsed([]byte(s)); !reflect.DeepEqual(got, &topology.CNI{}) {
			t.Errorf("of %q read %+v", s, got)
		}
	}
	s := newStore(t)
	testutil.Must(t, s.Write(dualStack()))
	testutil.Must(t, os.Truncate(s.target(), int64(len(whole)/2)))
	if got := s.Read(); !reflect.DeepEqual(got, &topology.CNI{}) {
		t.Errorf("read %+v", got)
	}
	testutil.Must(t, s.Write(dualStack()))
	holds(t, s, dualStack())
}

// FuzzParse: whatever the file contains, the config that is read from it renders to it.
func FuzzParse(f *testing.F) {
	content, err := Render(dualStack())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(content)
	f.Add([]byte(`{"plugins":[{"ipam":{"ranges":[[{"subnet":"10.0.0.0/8"}],null]}}]}`))
	f.Fuzz(func(t *testing.T, content []byte) {
		c := parsed(content)
		if reflect.DeepEqual(c, &topology.CNI{}) {
			return
		}
		if again := render(t, *c); string(again) != string(content) {
			t.Errorf("read %+v, which renders to %q", c, again)
		}
	})
}

// parsed returns a config as Read does: the empty one, unless it is exactly as Render writes it.
func parsed(content []byte) *topology.CNI {
	if c, guard := parse(content); c != nil && guard == "" {
		return c
	}
	return &topology.CNI{}
}
