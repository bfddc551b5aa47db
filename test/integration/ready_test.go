package integration

import (
	"maps"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mdlayher/netlink"
	rtnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/topology"
	"github.com/plainroute/plainroute/test/netlab"
	"github.com/plainroute/plainroute/test/nodelab"
	"github.com/plainroute/plainroute/test/testutil"
)

// ownedTable is NFT_TABLE_F_OWNER of linux/netfilter/nf_tables.h: only its owner may change the
// table, and it goes with the owner's socket.
const ownedTable = 2

// A drift is something that the agent can't repair.
type drift struct {
	condition, reason string
	words             []string
	// inject injects it and returns a function that ends it.
	inject func(*testing.T, *nodelab.Node) (mend func())
}

// TestReadinessFollowsDrift makes a ready node drift in ways that can't be repaired, one after the
// other: each makes the node not ready by the one condition that names it, and then it is ready
// again.
func TestReadinessFollowsDrift(t *testing.T) {
	f := setup(t)
	node := f.node(t)
	settings, config := shadow(t, "/proc/sys"), shadow(t, node.ConfDir)
	plugins := linkPlugins(t, f.Plugins())
	testutil.Must(t, node.Register(testutil.Within(t, limit)))
	testutil.Must(t, node.StartAgent(nodelab.AgentOptions{Args: []string{"--proc-sys=" + settings, "--cni-conf-dir=" + config, "--cni-bin-dir=" + plugins, "--resync=1s"}}))
	testutil.Must(t, node.WaitReady(testutil.Within(t, limit)))
	drifts := map[string]drift{
		"settings that can't be written": {"settings", "SettingFailed", []string{"ip_forward", "read-only"}, func(t *testing.T, node *nodelab.Node) func() {
			readOnly(t, settings, unix.MS_RDONLY)
			testutil.Must(t, node.Sysctl("net/ipv4/ip_forward", "0"))
			return func() { readOnly(t, settings, 0) }
		}},
		"a setting that does not stay": {"settings", "SettingFailed", []string{"ip_forward", "still"}, func(t *testing.T, node *nodelab.Node) func() {
			forward := filepath.Join(settings, "net/ipv4/ip_forward") // another file in each network namespace
			testutil.Must(t, node.Do(func() error { return unix.Mount("/dev/null", forward, "", unix.MS_BIND, "") }))
			return func() { testutil.Must(t, node.Do(func() error { return unix.Unmount(forward, 0) })) }
		}},
		"a table with another owner": {"table", "TableFailed", []string{"not permitted"}, func(t *testing.T, node *nodelab.Node) func() {
			conn := holdTable(t, node)
			return func() { testutil.Must(t, conn.Close()) }
		}},
		"a config that can't be written": {"cni-config", "CNIFailed", []string{"read-only"}, func(t *testing.T, node *nodelab.Node) func() {
			readOnly(t, config, unix.MS_RDONLY)
			testutil.Must(t, os.Remove(filepath.Join(node.ConfDir, topology.Conflist)))
			return func() { readOnly(t, config, 0) }
		}},
		"a foreign route to our own subnet": {"routes", "RouteConflict", []string{"not ours"}, func(t *testing.T, node *nodelab.Node) func() {
			subnet := node.Subnets[0] // the bridge's own route has metric 0
			route := &rtnl.Route{
				Dst: &net.IPNet{IP: subnet.Addr().AsSlice(), Mask: net.CIDRMask(subnet.Bits(), 32)}, Gw: netlab.Router4.AsSlice(), Priority: 100,
			}
			testutil.Must(t, node.Handle().RouteAdd(route))
			return func() { testutil.Must(t, node.Handle().RouteDel(route)) }
		}},
	}
	maps.Copy(drifts, podDrifts(plugins))
	for name, d := range drifts {
		t.Run(name, func(t *testing.T) {
			mend := d.inject(t, node)
			testutil.Must(t, node.WaitReadyz(testutil.Within(t, limit), func(code int, body string) bool {
				return code == http.StatusServiceUnavailable && holdsAll(body, append(d.words, d.reason)...)
			}))
			// The pass after the first that failed may see more, or less.
			var body string
			defer func() { t.Log(body) }()
			testutil.AwaitTrue(t, "no condition but "+d.condition+" fails", func() bool {
				var err error
				_, body, err = node.Get(t.Context(), "/readyz?verbose")
				testutil.Must(t, err)
				return strings.Contains(body, "[-]"+d.condition+" failed: "+d.reason+": ") && strings.Count(body, "[-]") == 1
			})
			if code, body, err := node.Get(t.Context(), "/healthz"); err != nil || code != http.StatusOK {
				t.Errorf("healthz is %d %s, %v; a restart would repair nothing", code, body, err)
			}
			mend()
			testutil.Must(t, node.WaitReady(testutil.Within(t, limit)))
		})
	}
}

// podDrifts keep the node from making pods.
func podDrifts(plugins string) map[string]drift {
	return map[string]drift{
		"a config that goes first": {"cni-first", "CNIConflict", []string{"05-other.conflist"}, func(t *testing.T, node *nodelab.Node) func() {
			other := filepath.Join(node.ConfDir, "05-other.conflist")
			testutil.Must(t, os.WriteFile(other, []byte(`{"cniVersion":"1.0.0","name":"other","plugins":[{"type":"ptp"}]}`), 0o600))
			return func() { testutil.Must(t, os.Remove(other)) }
		}},
		"a plugin that is not there": {"cni-plugins", "PluginMissing", []string{"the CNI plugin host-local is not in " + plugins}, func(t *testing.T, _ *nodelab.Node) func() {
			path := filepath.Join(plugins, "host-local")
			testutil.Must(t, os.Rename(path, path+".aside"))
			return func() { testutil.Must(t, os.Rename(path+".aside", path)) }
		}},
		"a bridge that was renamed": {"bridge", "BridgeFailed", []string{"ip link set dev br-renamed name " + topology.Bridge}, func(t *testing.T, node *nodelab.Node) func() {
			rename(t, node, topology.Bridge, "br-renamed")
			return func() { rename(t, node, "br-renamed", topology.Bridge) }
		}},
	}
}

// linkPlugins makes a folder of links to the plugins of another.
func linkPlugins(t *testing.T, folder string) string {
	t.Helper()
	path := t.TempDir()
	files, err := os.ReadDir(folder)
	testutil.Must(t, err)
	for _, file := range files {
		testutil.Must(t, os.Symlink(filepath.Join(folder, file.Name()), filepath.Join(path, file.Name())))
	}
	return path
}

func rename(t *testing.T, node *nodelab.Node, from, to string) {
	t.Helper()
	link, err := node.Handle().LinkByName(from)
	testutil.Must(t, err)
	testutil.Must(t, node.Handle().LinkSetName(link, to))
}

// shadow is another path of a folder, by which it can be made read-only for the agent alone.
func shadow(t *testing.T, folder string) string {
	t.Helper()
	path := t.TempDir()
	testutil.Must(t, os.MkdirAll(folder, 0o755))
	testutil.Must(t, unix.Mount(folder, path, "", unix.MS_BIND, ""))
	t.Cleanup(func() { testutil.Must(t, unix.Unmount(path, unix.MNT_DETACH)) })
	return path
}

func readOnly(t *testing.T, path string, flag uintptr) {
	t.Helper()
	testutil.Must(t, unix.Mount("", path, "", unix.MS_BIND|unix.MS_REMOUNT|flag, ""))
}

// holdTable replaces our table by one that only its owner may change, until the connection is
// closed. google/nftables sends no flags of a table.
func holdTable(t *testing.T, node *nodelab.Node) *netlink.Conn {
	t.Helper()
	var conn *netlink.Conn
	testutil.Must(t, node.Do(func() (err error) {
		conn, err = netlink.Dial(unix.NETLINK_NETFILTER, nil)
		return err
	}))
	name := netlink.Attribute{Type: unix.NFTA_TABLE_NAME, Data: append([]byte(topology.Table), 0)}
	flags := netlink.Attribute{Type: unix.NFTA_TABLE_FLAGS, Data: []byte{0, 0, 0, ownedTable}}
	_, err := conn.SendMessages([]netlink.Message{
		message(t, unix.NFNL_MSG_BATCH_BEGIN, unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES),
		message(t, nfTables|unix.NFT_MSG_DELTABLE, unix.NFPROTO_INET, 0, name),
		message(t, nfTables|unix.NFT_MSG_NEWTABLE, unix.NFPROTO_INET, 0, name, flags),
		message(t, unix.NFNL_MSG_BATCH_END, unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES),
	})
	testutil.Must(t, err)
	return conn
}

const nfTables = unix.NFNL_SUBSYS_NFTABLES << 8

// message is one to nfnetlink: a header of struct nfgenmsg, and attributes.
func message(t *testing.T, kind, family, resource int, attributes ...netlink.Attribute) netlink.Message {
	t.Helper()
	data, err := netlink.MarshalAttributes(attributes)
	testutil.Must(t, err)
	flags := netlink.Request
	if kind == nfTables|unix.NFT_MSG_NEWTABLE {
		flags |= netlink.Create
	}
	return netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(kind), Flags: flags},
		Data:   append([]byte{byte(family), unix.NFNETLINK_V0, byte(resource >> 8), byte(resource)}, data...),
	}
}

// A peer with a refused claim, one that can't be reached, and a foreign route in the way of a third keep no other
// node from being ready.
func TestPeersFaultsLeaveUsReady(t *testing.T) {
	f := setup(t)
	node, peer, liar := f.node(t), f.node(t), f.node(t)
	ctx := testutil.Within(t, limit)
	testutil.Must(t, node.AddStaticRoute(peer.Subnets[0], netlab.Router4))
	testutil.Must(t, peer.Register(ctx))
	testutil.Must(t, node.Register(ctx))
	testutil.Must(t, node.StartAgent(nodelab.AgentOptions{}))
	testutil.Must(t, node.WaitReady(ctx))
	liar.Subnets = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/24")}
	testutil.Must(t, liar.Register(ctx))
	testutil.AwaitTrue(t, "the peers' faults are reported", func() bool {
		return hasProblem(t, node, peer.Name, "RouteConflict", "") && hasProblem(t, node, liar.Name, "PodCIDRRefused", "")
	})
	code, body, err := node.Get(ctx, "/readyz?verbose")
	testutil.Must(t, err)
	if code != http.StatusOK || strings.Contains(body, "[-]") || strings.Contains(body, "[?]") {
		t.Errorf("readyz is %d:\n%s", code, body)
	}
	testutil.Must(t, node.DeleteStaticRoute(peer.Subnets[0], netlab.Router4))
	testutil.Must(t, liar.Deregister(ctx))
	liar.Subnets = nil
}
