//go:build linux

package main

import (
	"bytes"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/plainroute/plainroute/pkg/cni"
	"github.com/plainroute/plainroute/pkg/status"
	"github.com/plainroute/plainroute/pkg/topology"
)

// doctor reads the bridge's name from the node, because the agent may have it from an argument.
func TestDoctorFindsTheBridge(t *testing.T) {
	result := wide(1)
	result.Host = status.Host{Bridge: "cbr0"}
	agent := answering(t, result)
	if text := doctorCommand().Flags().Lookup("bridge").DefValue; text != "" {
		t.Errorf("the doctor goes by %s, whatever there is", text)
	}
	const nobody = "127.0.0.1:1"
	for _, c := range []struct{ name, listen, config, flag, want string }{
		{"nobody names it", nobody, "", "", topology.Bridge},
		{"by our CNI config", nobody, "cbr1", "", "cbr1"},
		{"by the agent", agent, "cbr1", "", "cbr0"},
		{"by the flag", agent, "cbr1", "cbr2", "cbr2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			store := cni.Store{ConfDir: filepath.Join(dir, "conf"), RunDir: filepath.Join(dir, "run")}
			if c.config != "" {
				if err := os.MkdirAll(store.ConfDir, 0o755); err != nil {
					t.Fatal(err)
				}
				if err := store.Write(topology.CNI{Bridge: c.config, MTU: 1500, Subnets: []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24")}}); err != nil {
					t.Fatal(err)
				}
			}
			f := &doctorFlags{nodeDoctor: nodeDoctor{root: dir, nodeFlags: nodeFlags{procSys: "/proc/sys", runDir: store.RunDir, cniConfDir: store.ConfDir, bridge: c.flag, listen: c.listen}}}
			p := f.target(t.Context())
			if p.Kernel != nil {
				defer p.Kernel.Close()
			}
			if p.Bridge != c.want || p.KernelErr != nil {
				t.Errorf("the bridge is %s, want %s; %v", p.Bridge, c.want, p.KernelErr)
			}
		})
	}
}

// doctor has the environment of the agent in its container, where a folder may be set to empty.
func TestDoctorOfAnAgentThatLooksAtNoPlugins(t *testing.T) {
	t.Setenv("PLAINROUTE_CNI_BIN_DIR", "")
	var out bytes.Buffer
	cmd := doctorCommand()
	cmd.SetArgs([]string{"--check=cni-plugins", "--verbose", "--listen=127.0.0.1:1", "--kubeconfig=" + filepath.Join(t.TempDir(), "none")})
	cmd.SetOut(&out)
	if err := cmd.ExecuteContext(t.Context()); err != nil || !strings.Contains(out.String(), "the agent does not look at CNI plugins") {
		t.Errorf("%v:\n%s", err, &out)
	}
}
