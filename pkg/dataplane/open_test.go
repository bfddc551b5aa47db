package dataplane

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"runtime/debug"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/plan"
	"github.com/plainroute/plainroute/pkg/topology"
	"github.com/plainroute/plainroute/test/seccomp"
)

// A process that runs out of file descriptors at its start reports it, whichever is the first that
// it lacks, and closes the others.
func TestStartWithoutFileDescriptors(t *testing.T) {
	m := newMachine(t)
	before := m.descriptors()
	var limit unix.Rlimit
	m.must(unix.Getrlimit(unix.RLIMIT_NOFILE, &limit))
	defer func() { m.must(unix.Setrlimit(unix.RLIMIT_NOFILE, &limit)) }()
	lowest, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	m.must(err)
	m.must(unix.Close(lowest))
	tries := 0
	for ; ; tries++ {
		m.must(unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: uint64(lowest + tries), Max: limit.Max}))
		k, err := New(m.cfg)
		m.must(unix.Setrlimit(unix.RLIMIT_NOFILE, &limit))
		if err == nil {
			m.must(k.Close())
			break
		}
		if k != nil || !errors.Is(err, unix.EMFILE) || !strings.HasPrefix(err.Error(), "opening netlink: ") {
			t.Fatalf("with %d more: %v, %v", tries, k, err)
		}
	}
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // which closes unreferenced files
	const times = 30
	for range times {
		k, err := New(m.cfg)
		m.must(err)
		m.must(k.Close())
	}
	if now := m.descriptors(); now >= before+min(tries, times) || tries < 5 {
		t.Errorf("%d descriptors became %d, after %d tries", before, now, tries)
	}
}

// Of each part of a host and of what is ours there is something in the facts and in the state.
func TestFactsAndStateAreWhole(t *testing.T) {
	m := newMachine(t)
	bin := t.TempDir()
	for _, plugin := range []string{"bridge", "host-local", "loopback", "portmap", "firewall", "bandwidth"} {
		stock, err := filepath.Abs(filepath.Join(m.stockPlugins().Path[0], plugin))
		m.must(errors.Join(err, os.Symlink(stock, filepath.Join(bin, plugin))))
	}
	m.must(os.WriteFile(filepath.Join(bin, "tuning"), nil, 0o755))
	m.cfg.CNI.BinDir, m.cfg.CNI.PluginsDir = bin, t.TempDir()
	m.settle(nodes(2))
	m.useTable(100)
	m.ruleTo(100, m.nl.RuleAdd)
	m.settle(nodes(2))
	m.must(m.nl.RouteAdd(m.foreign("10.128.99.0/24", "192.168.1.12", "eth0", int(topology.PeerMetric(netip.MustParsePrefix("10.128.99.0/24"))), topology.Protocol)))
	m.useTable(100) // which looks for routes in other tables
	m.addPod("vethpod", "10.128.0.2/24")
	m.must(os.Remove(filepath.Join(bin, "loopback")))
	for file, content := range map[string]string{
		filepath.Join(m.cfg.CNI.PluginsDir, "10-tuning.json"): `{"type": "tuning"}`, filepath.Join(m.cfg.CNI.PluginsDir, "15-bandwidth.json"): `{"type": "bandwidth"}`,
		filepath.Join(m.cfg.CNI.PluginsDir, "20-broken.json"): "{",
		filepath.Join(m.cfg.CNI.ConfDir, "00-other.conflist"): "{}", m.cfg.ResolvConf: "nameserver 10.0.0.53\n",
	} {
		m.must(os.WriteFile(file, []byte(content), 0o644))
	}
	m.addTunnelWithPeer()
	m.Forget()
	state := m.observe()
	m.blind, m.unread = errors.New("too many watches"), errors.New("too many rules")
	host, err := m.Facts(t.Context(), nil)
	m.must(err)
	for _, whole := range []any{host, state} {
		v := reflect.ValueOf(whole)
		for i := range v.NumField() {
			if field := v.Type().Field(i); field.IsExported() && v.Field(i).IsZero() != (field.Name == "NoIPv6" && !m.lacksIPv6()) {
				t.Errorf("%s of %T is %v", field.Name, whole, v.Field(i))
			}
		}
	}
	for _, plugin := range []string{"tuning", "loopback"} {
		if _, unfit := host.UnfitPlugins[plugin]; !unfit {
			t.Errorf("plugin %s counts as fit: %v", plugin, host.UnfitPlugins)
		}
	}
	if got := strings.Join(host.CNI11, " "); got != "bridge host-local portmap firewall bandwidth" || host.TableUnread != "too many rules" || !slices.Equal(host.Unseen, []string{"too many watches"}) {
		t.Errorf("got %+v", host)
	}
	m.cfg.CNI.BinDir, m.cfg.CNI.PluginsDir, m.plugins.Path = "", "", ""
	if host, err := m.Facts(t.Context(), nil); err != nil || host.UnfitPlugins != nil || host.CNI11 != nil {
		t.Errorf("without a folder of plugins: %v, %v, %v", host.UnfitPlugins, host.CNI11, err)
	}
}

// nftBatch is what a transaction begins with (NFNL_MSG_BATCH_BEGIN).
const nftBatch = unix.NFNL_MSG_BATCH_BEGIN

// The kept state is read again when it may have changed. After an error all is read again, but only
// the table after an error of the table with no other changes.
func TestWhatIsReadAgain(t *testing.T) {
	m := newMachine(t)
	m.settle(nodes(2))
	there := m.observe()
	table := there.Masquerade
	sysctl := plan.Of(plan.Replace, plan.Sysctl{Path: topology.SysctlForward4, Value: "1"})
	const links, tables = unix.RTM_GETLINK, unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETTABLE
	r := seccomp.NewRefuser(t)
	for name, c := range map[string]struct {
		changes      plan.Changes
		refused      uint16
		fails        bool
		links, table bool
	}{
		"nothing":                             {plan.Changes{}, 0, false, false, false},
		"a setting":                           {sysctl, 0, false, false, false},
		"a setting that fails":                {plan.Of(plan.Replace, plan.Sysctl{Path: "nowhere", Value: "1"}), 0, true, true, true},
		"a route that fails":                  {routes(plan.Delete, values(there.Routes[:1])...), unix.RTM_DELROUTE, true, true, true},
		"the table":                           {plan.Of(plan.Replace, plan.Table{Masquerade: table}), 0, false, true, true},
		"the table, which fails":              {plan.Of(plan.Replace, plan.Table{Masquerade: table}), nftBatch, true, false, true},
		"no table, which fails":               {plan.Of(plan.Delete, plan.Table{}), nftBatch, true, false, true},
		"no table, which fails, and a change": {sysctl.With(plan.Of(plan.Delete, plan.Table{})...), nftBatch, true, true, true},
	} {
		m.settle(nodes(2))
		end := r.Recording(unix.ENOMEM, c.refused)
		err := m.Apply(t.Context(), c.changes)
		if end(); (err != nil) != c.fails {
			t.Errorf("%s: %v", name, err)
		}
		end = r.Recording(0, 0)
		m.observe()
		if kinds := end(); slices.Contains(kinds, links) != c.links || slices.Contains(kinds, tables) != c.table || len(kinds) > 0 != (c.links || c.table) {
			t.Errorf("after %s the requests are %v", name, kinds)
		}
	}
	for name, forget := range map[string]func(){"all": m.Forget, "our routes": func() { m.fresh.ours = false }} {
		forget()
		for _, want := range []int{len(m.Kernel.families), 0} {
			end := r.Recording(0, 0)
			m.observe()
			asked := slices.DeleteFunc(end(), func(kind uint16) bool { return kind != unix.RTM_GETROUTE })
			if len(asked) != want {
				t.Errorf("after %s was dropped, routes were requested %d times, want %d", name, len(asked), want)
			}
		}
	}
	m.settle(nodes(2))
	m.sysctl(topology.SysctlForward4, "0") // which is not announced
	if got := m.observe().Sysctls[topology.SysctlForward4]; got != "1" {
		t.Errorf("what is kept became %q", got)
	}
	m.Forget()
	if got := m.observe().Sysctls[topology.SysctlForward4]; got != "0" {
		t.Errorf("what is read again is %q", got)
	}
}

// A change can be the first that a process does.
func TestChangeBeforeAnyLook(t *testing.T) {
	m := newMachine(t)
	m.settle(nodes(2))
	k, err := New(m.cfg)
	m.must(err)
	defer k.Close()
	gone := routes(plan.Delete, values(m.observe().Routes[:1])...)
	r := seccomp.NewRefuser(t)
	r.Requests(unix.ENOMEM, unix.RTM_GETADDR)
	if err := k.Apply(t.Context(), gone); !errors.Is(err, unix.ENOMEM) || len(m.ours()) != 2*m.families() {
		t.Errorf("got %v, and %d routes are there", err, len(m.ours()))
	}
	r.Nothing()
	if m.must(k.Apply(t.Context(), gone)); len(m.ours()) != 2*m.families()-1 {
		t.Errorf("%d routes are there", len(m.ours()))
	}
}

// A refused route is named with what was to be done.
func TestTextOfARefusedRoute(t *testing.T) {
	m := newMachine(t)
	m.settle(nodes(2))
	route := *m.observe().Routes[0]
	err := &RouteError{"changing", route, unix.ENOMEM}
	if got, want := err.Error(), `changing route "`+route.String()+`": cannot allocate memory`; got != want || err.FailedRoute() != route || !errors.Is(err, unix.ENOMEM) {
		t.Errorf("got %s, want %s", got, want)
	}
}

// A CNI config that can't be removed is reported, and one that can't be written.
func TestFailureOfTheConfigIsReported(t *testing.T) {
	m := newMachine(t)
	whole := m.cfg.CNI.RunDir
	m.cfg.CNI.RunDir = filepath.Join(whole, "file", "below")
	m.must(os.WriteFile(filepath.Join(whole, "file"), nil, 0o644))
	conf := topology.CNI{Bridge: topology.Bridge, MTU: 1500, Subnets: nodes(1)[0].PodCIDRs}
	if err := m.Apply(t.Context(), plan.Of(plan.Add, plan.Config{CNI: &conf})); !errors.Is(err, unix.ENOTDIR) {
		t.Errorf("got %v", err)
	}
	m.cfg.CNI.RunDir = whole
	m.must(os.MkdirAll(filepath.Join(m.cfg.CNI.ConfDir, topology.Conflist, "below"), 0o755))
	if err := m.Apply(t.Context(), plan.Of(plan.Delete, plan.Config{})); err == nil || !strings.HasPrefix(err.Error(), "removing the CNI config: ") {
		t.Errorf("got %v", err)
	}
}
