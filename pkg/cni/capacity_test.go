package cni

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/plainroute/plainroute/pkg/topology"
	"github.com/plainroute/plainroute/test/testutil"
)

// stockPlugin returns the path of a plugin that attaches pods.
func stockPlugin(t *testing.T, name string) string {
	t.Helper()
	return filepath.Join(testutil.NeedPlugins(t), name)
}

// host-local gives as many addresses as topology.PodCapacity returns.
func TestRoomIsWhatHostLocalGives(t *testing.T) {
	plugin := stockPlugin(t, "host-local")
	for subnet, want := range map[string]int{
		"10.244.1.0/32": 0, "10.244.1.0/31": 0, "10.244.1.4/30": 1, "10.244.1.8/29": 5,
		"fd00:10:244::/128": 0, "fd00:10:244::/127": 0, "fd00:10:244::4/126": 2, "fd00:10:244::8/125": 6,
	} {
		t.Run(subnet, func(t *testing.T) {
			p := netip.MustParsePrefix(subnet)
			conf := fmt.Sprintf(`{"cniVersion": "1.0.0", "name": "plainroute", "type": "bridge", "ipam": {"type": "host-local", "dataDir": %q, "ranges": [[{"subnet": %q}]]}}`, t.TempDir(), subnet)
			given := 0
			for pod := range want + 1 {
				cmd := exec.CommandContext(t.Context(), plugin)
				cmd.Stdin = strings.NewReader(conf)
				cmd.Env = append(os.Environ(), "CNI_COMMAND=ADD", fmt.Sprintf("CNI_CONTAINERID=pod%d", pod), "CNI_NETNS=/proc/self/ns/net", "CNI_NETNS_OVERRIDE=1", "CNI_IFNAME=eth0", "CNI_PATH="+filepath.Dir(plugin))
				if out, err := cmd.CombinedOutput(); err != nil {
					t.Logf("%s", out)
					break
				}
				given++
			}
			if given != want || topology.PodCapacity(p) != want {
				t.Errorf("host-local gave %d addresses, and Room says %d, want %d", given, topology.PodCapacity(p), want)
			}
		})
	}
}
