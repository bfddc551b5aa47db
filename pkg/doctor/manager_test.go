package doctor

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/topology"
)

// files are those of a host, by their paths.
func files(t *testing.T, all map[string]string) *Target {
	t.Helper()
	p := &Target{Root: t.TempDir(), Bridge: topology.Bridge}
	all["/etc/os-release"] = "ID=debian\n"
	for path, text := range all {
		if err := os.MkdirAll(filepath.Dir(p.Path(path)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p.Path(path), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

const (
	runs   = "/run/systemd/netif/state"
	nmRuns = "/run/NetworkManager/devices/1"
	off    = "[Network]\nManageForeignRoutes=no\nManageForeignRoutingPolicyRules=no\n"
)

func TestNetworkd(t *testing.T) {
	for name, c := range map[string]struct {
		files map[string]string
		words []string // empty: no problem
	}{
		"does not run":     {map[string]string{"/etc/systemd/networkd.conf": "[Network]\n"}, nil},
		"by default":       {map[string]string{runs: "", "/etc/systemd/networkd.conf": "[Network]\n#ManageForeignRoutes=no\n"}, []string{"ManageForeignRoutes is yes (its default)", "networkd.conf.d/plainroute.conf"}},
		"switched off":     {map[string]string{runs: "", "/etc/systemd/networkd.conf": off}, nil},
		"rules only":       {map[string]string{runs: "", "/etc/systemd/networkd.conf": "[Network]\nManageForeignRoutes = off\n"}, []string{"ManageForeignRoutingPolicyRules is yes (its default)"}},
		"by a snippet":     {map[string]string{runs: "", "/usr/lib/systemd/networkd.conf.d/10-k8s.conf": off}, nil},
		"taken back":       {map[string]string{runs: "", "/run/systemd/networkd.conf.d/10-k8s.conf": off, "/etc/systemd/networkd.conf.d/99-site.conf": "[Network]\nManageForeignRoutes=yes\n"}, []string{"99-site.conf: ManageForeignRoutes=yes"}},
		"masked":           {map[string]string{runs: "", "/usr/lib/systemd/networkd.conf.d/10-k8s.conf": off, "/etc/systemd/networkd.conf.d/10-k8s.conf": ""}, []string{"ManageForeignRoutes is yes (its default)"}},
		"another section":  {map[string]string{runs: "", "/etc/systemd/networkd.conf": "[DHCP]\nManageForeignRoutes=no\n"}, []string{"ManageForeignRoutes is yes"}},
		"all devices":      {map[string]string{runs: "", "/etc/systemd/networkd.conf": off, "/etc/systemd/network/99-default.network": "[Match]\nName=*\n[Network]\nDHCP=yes\n"}, []string{"/etc/systemd/network/99-default.network applies to plainroute0", "applies to veth0a1b2c3d", "Unmanaged=yes"}},
		"all wired":        {map[string]string{runs: "", "/etc/systemd/networkd.conf": off, "/etc/systemd/network/20-wired.network": "[Match]\nType=ether\n[Network]\nDHCP=yes\n"}, []string{"20-wired.network applies to veth0a1b2c3d"}},
		"all real cards":   {map[string]string{runs: "", "/etc/systemd/networkd.conf": off, "/etc/systemd/network/20-wired.network": "[Match]\nKind=!*\nType=ether\n[Network]\nDHCP=yes\n", "/usr/lib/systemd/network/80-container-ve.network": "[Match]\nKind=veth\nName=ve-*\n"}, nil},
		"ours left alone":  {map[string]string{runs: "", "/etc/systemd/networkd.conf": off, "/etc/systemd/network/05-plainroute.network": "[Match]\nName=plainroute0 veth*\n[Link]\nUnmanaged=yes\n", "/etc/systemd/network/99-default.network": "[Match]\nName=*\n"}, nil},
		"not for this one": {map[string]string{runs: "", "/etc/systemd/networkd.conf": off, "/etc/systemd/network/10-vm.network": "[Match]\nVirtualization=container\nName=*\n", "/etc/systemd/network/20-en.network": "[Match]\nName=en* eth*\n"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			found := networkManagers(t.Context(), files(t, c.files))
			if c.words == nil {
				well(t, found)
				return
			}
			finds(t, found, problem.Warning, c.words...)
		})
	}
}

func TestNetworkManager(t *testing.T) {
	const conf, snippet = "/etc/NetworkManager/NetworkManager.conf", "/etc/NetworkManager/conf.d/plainroute.conf"
	for name, c := range map[string]struct {
		files map[string]string
		words []string
	}{
		"by default":     {map[string]string{nmRuns: "", conf: "[main]\nplugins=keyfile\n"}, []string{"matches plainroute0, veth0a1b2c3d", "unmanaged-devices+=interface-name:plainroute0"}},
		"excluded":       {map[string]string{nmRuns: "", snippet: "[keyfile]\nunmanaged-devices+=interface-name:plainroute0;interface-name:veth*\n"}, nil},
		"bridge only":    {map[string]string{nmRuns: "", snippet: "[keyfile]\nunmanaged-devices=interface-name:=plainroute0\n"}, []string{"matches veth0a1b2c3d"}},
		"by type":        {map[string]string{nmRuns: "", conf: "[keyfile]\nunmanaged-devices=type:bridge;type:veth\n"}, nil},
		"all but one":    {map[string]string{nmRuns: "", conf: "[keyfile]\nunmanaged-devices=*,except:interface-name:eth0\n"}, nil},
		"except ours":    {map[string]string{nmRuns: "", conf: "[keyfile]\nunmanaged-devices=*;except:interface-name:plainroute0\n"}, []string{"matches plainroute0"}},
		"replaced later": {map[string]string{nmRuns: "", conf: "[keyfile]\nunmanaged-devices=*\n", snippet: "[keyfile]\nunmanaged-devices=mac:02:00:00:00:00:01\n"}, []string{"plainroute0"}},
		"by a device":    {map[string]string{nmRuns: "", snippet: "[device-pods]\nmatch-device=interface-name:plainroute*;interface-name:veth*\nmanaged=0\n"}, nil},
		"not running":    {map[string]string{conf: "[main]\n"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			found := networkManagers(t.Context(), files(t, c.files))
			if c.words == nil {
				well(t, found)
				return
			}
			finds(t, found, problem.Warning, c.words...)
		})
	}
}

func TestManagersUnseen(t *testing.T) {
	finds(t, networkManagers(t.Context(), &Target{Root: t.TempDir()}), problem.Unknown, "kubectl debug node")
}
