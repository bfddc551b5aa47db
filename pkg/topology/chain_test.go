package topology

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/plainroute/plainroute/pkg/problem"
)

// chainOf computes the CNI config of a ready node, and the Problems.
func chainOf(opts Options, host Host) (*CNI, []problem.Problem) {
	prefix := netip.MustParsePrefix
	opts.NodeName, opts.Bridge, opts.RunDir = "node1", Bridge, "/run/plainroute"
	host.Links = []Link{{Name: "eth0", MTU: 1500, Addrs: []netip.Prefix{prefix("192.168.1.11/24")}}, {Name: Bridge}}
	host.Routes = []Route{{Dst: prefix("192.168.1.0/24"), Dev: "eth0"}}
	node := &Node{Name: "node1", PodCIDRs: []netip.Prefix{prefix("10.244.1.0/24")}, Addrs: []netip.Addr{netip.MustParseAddr("192.168.1.11")}}
	actual := State{Sysctls: map[string]string{SysctlForward4: "1", SysctlBridgeNF4: "1"}}
	desired, problems := Desired(opts, host, []*Node{node}, actual)
	return desired.CNI, problems
}

func TestLayoutFollowsOptions(t *testing.T) {
	for _, c := range []struct {
		opts Options
		want Layout
	}{
		{Options{}, LayoutLink},
		{Options{ConfigsBefore: []string{"00-a.conf"}}, LayoutLink},
		{Options{ConfigFile: true}, LayoutGate},
		{Options{ConfigFile: true, ConfigsBefore: []string{"00-a.conf"}}, LayoutFile},
	} {
		if conf, problems := chainOf(c.opts, Host{}); conf == nil || conf.Layout != c.want {
			t.Errorf("%+v: got %+v, want %q; problems %v", c.opts, conf, c.want, problems)
		}
	}
}

// A config that may go before ours is not a Problem; any other keeps the node from being ready.
func TestWantedConfigsBefore(t *testing.T) {
	host := Host{ConfigsBefore: []string{"00-a.conf", "05-b.conf"}}
	for _, c := range []struct {
		wanted []string
		rivals int
	}{{nil, 2}, {[]string{"00-a.conf"}, 1}, {[]string{"05-b.conf", "00-a.conf", "07-c.conf"}, 0}, {[]string{"00-a.conflist"}, 2}} {
		_, problems := chainOf(Options{ConfigsBefore: c.wanted}, host)
		rivals := slices.DeleteFunc(problems, func(p problem.Problem) bool { return p.Reason != problem.CNIConflict || !p.BlocksReady })
		if len(rivals) != c.rivals {
			t.Errorf("wanted %q: %v, want %d", c.wanted, rivals, c.rivals)
		}
	}
}

func TestChainedPlugins(t *testing.T) {
	host := Host{
		Plugins:        []Plugin{{Type: "bandwidth", File: "10.json", Config: "{}"}, {Type: "firewall", Config: "{}"}, {Type: "mesh", Config: "{}"}},
		PluginProblems: []string{"20.json: empty"},
	}
	conf, problems := chainOf(Options{}, host)
	if conf == nil || !slices.Equal(conf.Plugins, host.Plugins) {
		t.Errorf("got %+v", conf)
	}
	want := problem.Problem{Subject: problem.Node("node1"), Reason: problem.CNIPluginRefused, Message: "20.json: empty"} // and the node is ready
	if !slices.Contains(problems, want) {
		t.Errorf("got %v, want %v", problems, want)
	}
	conf, _ = chainOf(Options{Firewall: true}, host)
	if conf == nil || !slices.Equal(conf.Plugins, []Plugin{host.Plugins[0], host.Plugins[2]}) {
		t.Errorf("with a firewall plugin of our own: %+v", conf)
	}
	if other := *conf; other.Equal(&CNI{Bridge: conf.Bridge, MTU: conf.MTU, Subnets: conf.Subnets, IPAMDir: conf.IPAMDir, Firewall: true}) {
		t.Error("a config without the plugins is equal")
	}
}
