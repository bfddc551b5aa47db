package dataplane

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	rtnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/cni"
	"github.com/plainroute/plainroute/pkg/topology"
	"github.com/plainroute/plainroute/test/seccomp"
)

// Each disturbance is announced, and a pass after it makes all good again.
func TestDisturbances(t *testing.T) {
	for name, disturb := range disturbances() {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			news := m.watchSettled(nodes(4))
			disturb(m)
			// The first notification may be a late one, which requires no change.
			for found := false; !found; {
				m.expect(news, name+" after which a pass finds something to do")
				drain(news, shortly)
				found = !m.pass(nodes(4)).Empty()
			}
			m.settle(nodes(4))
		})
	}
}

func disturbances() map[string]func(*machine) {
	return map[string]func(*machine){
		"route deleted": func(m *machine) { m.must(m.nl.RouteDel(&m.ours()[0])) },
		"all of ours deleted": func(m *machine) {
			for _, r := range m.ours() {
				m.must(m.nl.RouteDel(&r))
			}
		},
		"route overwritten": func(m *machine) {
			r := m.ours()[1]
			r.Gw, r.Src = []byte{192, 168, 1, 250}, nil
			m.must(m.nl.RouteReplace(&r))
		},
		"link down and up": func(m *machine) {
			m.must(m.nl.LinkSetDown(m.eth0))
			m.up("eth0")
			if m.ipv6 {
				m.addr("eth0", "fd00:192:168:1::11/64")
			}
		},
		"address removed and added back": func(m *machine) {
			for _, s := range []string{"192.168.1.11/24", "fd00:192:168:1::11/64"}[:m.families()] {
				a, _ := rtnl.ParseAddr(s)
				m.must(m.nl.AddrDel(m.eth0, a))
				m.addr("eth0", s)
			}
		},
		"table deleted": func(m *machine) {
			c := m.nft4test()
			c.DelTable(nftTable)
			m.must(c.Flush())
		},
		"rule deleted": func(m *machine) {
			c := m.nft4test()
			chain := &nftables.Chain{Name: "postrouting", Table: nftTable}
			rules, err := c.GetRules(nftTable, chain)
			m.must(err)
			m.must(c.DelRule(rules[1]))
			m.must(c.Flush())
		},
		"set element deleted": func(m *machine) {
			c := m.nft4test()
			m.must(c.SetDeleteElements(families[0].nodesSet(), []nftables.SetElement{{Key: []byte{192, 168, 1, 12}}}))
			m.must(c.Flush())
		},
		"forwarding off":        func(m *machine) { m.sysctl(topology.SysctlForward4, "0") },
		"device forwarding off": func(m *machine) { m.sysctl("net/ipv4/conf/eth0/forwarding", "0") },
		"device forwarding off, IPv6": func(m *machine) {
			m.needIPv6()
			m.sysctl("net/ipv6/conf/eth0/forwarding", "0")
		},
	}
}

func (m *machine) nft4test() *nftables.Conn {
	c, err := nftables.New()
	m.must(err)
	return c
}

func TestNotificationsOfOwnChangesAreIgnored(t *testing.T) {
	m := newMachine(t)
	time.Sleep(settleTime)
	news := m.watchSettled(nodes(3))
	for _, n := range []int{6, 2} {
		m.pass(nodes(n))
		m.quiet(news, "our own changes")
	}
}

func TestPodsComingAndGoingAreIgnored(t *testing.T) {
	m := newMachine(t)
	m.must(m.nl.LinkAdd(&rtnl.Bridge{LinkAttrs: rtnl.LinkAttrs{Name: topology.Bridge}}))
	m.up(topology.Bridge)
	m.addr(topology.Bridge, "10.128.0.1/24")
	bridge := m.link(topology.Bridge)
	m.must(m.nl.LinkSetHardwareAddr(bridge, bridge.Attrs().HardwareAddr)) // as the plugin does, or each port changes it
	m.addVeth("vethfirst", 1500)
	m.must(m.nl.LinkSetMaster(m.link("vethfirst"), m.link(topology.Bridge)))
	time.Sleep(settleTime)
	news := m.watchSettled(nodes(3))
	m.addVeth("vethpod", 1500)
	m.must(m.nl.LinkSetMaster(m.link("vethpod"), m.link(topology.Bridge)))
	m.must(m.nl.LinkDel(m.link("vethpod")))
	m.quiet(news, "a pod's port")
}

// More notifications than the socket holds: what is kept is not trusted.
func TestOverflowIsAnAudit(t *testing.T) {
	m := newMachine(t)
	m.settle(nodes(2))
	for _, c := range m.events {
		m.must(c.SetReadBuffer(4096))
	}
	for i := range 2000 {
		r := m.foreign("172.30.0.0/16", "192.168.1.50", "eth0", i+1, 4)
		m.must(m.nl.RouteAdd(r))
		m.must(m.nl.RouteDel(r))
	}
	m.must(m.nl.RouteDel(&m.ours()[0]))
	news := m.watch()
	m.expect(news, "an overflow")
	drain(news, shortly)
	if m.pass(nodes(2)).Empty() {
		t.Error("what was lost was not found")
	}
}

func BenchmarkNewRoute(b *testing.B) {
	m := newMachine(b)
	all := nodes(5000)
	m.settle(all[:4999])
	for b.Loop() {
		m.pass(all)
		m.pass(all[:4999])
	}
}

// watched runs Watch of a Kernel, at the latest until the test ends; ended gives what it returns.
func (m *machine) watched(k *Kernel, resync time.Duration) (news <-chan struct{}, ended func() error) {
	notified, done := make(chan struct{}, 1000), make(chan struct{})
	ctx, cancel := context.WithCancel(context.Background())
	var err error
	go func() {
		defer close(done)
		err = k.Watch(ctx, resync, func() {
			select {
			case notified <- struct{}{}:
			default:
			}
		})
	}()
	m.t.Cleanup(func() { cancel(); <-done })
	return notified, func() error {
		select {
		case <-done:
			return err
		case <-time.After(time.Minute):
			return errors.New("it does not end")
		}
	}
}

func (m *machine) another() *Kernel {
	m.t.Helper()
	k, err := New(m.cfg)
	m.must(err)
	m.t.Cleanup(func() { _ = k.Close() }) // some of its sockets are closed by then
	return k
}

// The next audit finds changes that the kernel does not announce.
func TestAuditFindsWhatIsNotAnnounced(t *testing.T) {
	m := newMachine(t)
	m.needIPv6()
	path := topology.ConfSysctl(6, "eth0", "accept_ra")
	before := m.observe().Sysctls[path]
	m.sysctl(path, "2")
	if have := m.observe().Sysctls[path]; have != before || have == "2" {
		t.Fatalf("before the audit it is %q, and was %q", have, before)
	}
	news, _ := m.watched(m.Kernel, time.Millisecond)
	for range 20 { // what comes first is of folders
		m.expect(news, "an audit")
	}
	if have := m.observe().Sysctls[path]; have != "2" {
		t.Errorf("after the audit it is %q still", have)
	}
}

// Watch ends with an error where its sockets have gone, before or after it has begun, and where a
// folder has.
func TestWatchEndsWithoutAnythingToWatch(t *testing.T) {
	m := newMachine(t)
	closed := m.another()
	m.must(closed.events[0].Close())
	_, ended := m.watched(closed, time.Hour)
	if err := ended(); err == nil || !strings.Contains(err.Error(), "reading notifications: ") {
		t.Errorf("without a socket: %v", err)
	}
	watching := m.another()
	news, ended := m.watched(watching, time.Hour)
	drain(news, shortly)
	m.addVeth("eth7", 1500)
	m.expect(news, "a new link")
	m.must(watching.events[0].Close())
	if err := ended(); err == nil || !strings.Contains(err.Error(), "reading notifications: ") {
		t.Errorf("after its socket was closed: %v", err)
	}
	folder := filepath.Join(m.dir, "former")
	m.must(os.Mkdir(folder, 0o755))
	open, err := os.Open(folder)
	m.must(err)
	defer open.Close()
	former := m.another()
	former.cfg.CNI.RunDir = fmt.Sprintf("/proc/self/fd/%d", open.Fd()) // leads to the folder even once that has no name
	news, ended = m.watched(former, time.Hour)
	m.expect(news, "a folder")
	m.must(os.Remove(folder))
	if err := ended(); !errors.As(err, new(*cni.RemovedError)) {
		t.Errorf("after a folder has gone under its mount: %v", err)
	}
}

// Nothing that Watch has started goes on after it.
func TestWatchLeavesNothingBehind(t *testing.T) {
	m := newMachine(t)
	ctx, cancel := context.WithCancel(t.Context())
	news := make(chan struct{}, 1000)
	done := make(chan string)
	go func() {
		_ = m.Watch(ctx, time.Hour, func() { news <- struct{}{} })
		stacks := make([]byte, 1<<20)
		done <- string(stacks[:runtime.Stack(stacks, true)])
	}()
	m.expect(news, "folders")
	cancel()
	if stacks := <-done; strings.Contains(stacks, "(*Kernel).listen(") || strings.Contains(stacks, "Store.Watch(") {
		t.Errorf("left are\n%s", stacks)
	}
}

// Links that come and go are counted while Watch runs.
func TestLinkChangesAreCounted(t *testing.T) {
	m := newMachine(t)
	m.watchSettled(nodes(2))
	for what, change := range map[string]func(){
		"a new link": func() { m.addVeth("eth7", 1500) }, "a deleted link": func() { m.must(m.nl.LinkDel(m.link("eth0-peer"))) },
	} {
		before := m.LinkChanges()
		change()
		for end := time.Now().Add(time.Minute); m.LinkChanges() == before; runtime.Gosched() {
			if time.Now().After(end) {
				t.Fatalf("%s is not counted", what)
			}
		}
	}
}

// After notifications were lost nothing that is kept is trusted, and of links and ports anything
// may have come to pass.
func TestLostNotifications(t *testing.T) {
	m := newMachine(t)
	m.settle(nodes(2))
	m.must(m.events[0].SetReadDeadline(time.Now().Add(shortly)))
	if err := m.listen(m.events[0], func() {}); !errors.Is(err, os.ErrDeadlineExceeded) { // earlier notifications
		t.Fatal(err)
	}
	m.observe()
	m.must(m.events[0].SetReadBuffer(4096))
	other := m.foreign("172.30.0.0/16", "192.168.1.50", "eth0", 5, 4)
	for other.Table = 100; other.Priority < 500; other.Priority++ { // of another table, so that none is news
		m.must(m.nl.RouteAdd(other))
	}
	for len(m.left) > 0 {
		<-m.left
	}
	links, fresh, news := m.LinkChanges(), m.fresh, 0
	m.must(m.events[0].SetReadDeadline(time.Now().Add(10 * time.Second))) // where none comes
	err := m.listen(m.events[0], func() {
		news++
		m.must(m.events[0].SetReadDeadline(time.Unix(1, 0)))
	})
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("listening ends with %v", err)
	}
	m.must(m.events[0].SetReadDeadline(time.Time{}))
	if !fresh.masquerade || m.fresh != (freshness{}) || news == 0 || len(m.left) != 1 || m.LinkChanges() == links {
		t.Errorf("%d news, of %+v is left %+v, %d ports may have left, %d links changed", news, fresh, m.fresh, len(m.left), m.LinkChanges()-links)
	}
}

// The error of watching folders is notified when it appears, changes and goes.
func TestUnwatchedFoldersAreNotified(t *testing.T) {
	k, news := &Kernel{}, 0
	one, other := errors.New("one"), errors.New("other")
	for i, c := range []struct {
		err  error
		want int
	}{{nil, 0}, {one, 1}, {errors.New("one"), 1}, {other, 2}, {nil, 3}, {nil, 3}} {
		if k.setBlind(c.err, func() { news++ }); news != c.want || (k.blind == nil) != (c.err == nil) {
			t.Errorf("after step %d: %d news, %v", i, news, k.blind)
		}
	}
}

// A folder that can't be watched is news, and a fact.
func TestFoldersThatCantBeWatchedAreReported(t *testing.T) {
	m := newMachine(t)
	file := filepath.Join(m.dir, "file")
	m.must(os.WriteFile(file, nil, 0o600))
	k := m.another()
	k.cfg.CNI.ConfDir = filepath.Join(file, "net.d")
	news, _ := m.watched(k, time.Hour)
	for reported := false; !reported; {
		m.expect(news, "a folder that can't be watched")
		host, err := k.Facts(t.Context(), nil)
		m.must(err)
		reported = slices.ContainsFunc(host.Unseen, func(s string) bool { return strings.HasPrefix(s, "watching "+k.cfg.CNI.ConfDir+": ") })
	}
}

// An agent that can't subscribe to notifications does not start, unless the reason is a capability
// that it lacks.
func TestRefusedNotificationsAreReported(t *testing.T) {
	for errno, reported := range map[unix.Errno]bool{unix.EPERM: false, unix.ENOMEM: true} {
		t.Run(errno.Error(), func(t *testing.T) { // on a thread of its own, which ends with it
			m := newMachine(t)
			seccomp.RefuseCalls(t, errno, unix.SYS_SETSOCKOPT, map[int]uint32{1: unix.SOL_NETLINK, 2: unix.NETLINK_ADD_MEMBERSHIP})
			k, err := New(m.cfg)
			if (err != nil) != reported || reported && (!errors.Is(err, errno) || !strings.Contains(err.Error(), "opening netlink: joining notifications ")) {
				t.Errorf("after %v: %v", errno, err)
			}
			if err == nil {
				m.must(k.Close())
			}
		})
	}
}
