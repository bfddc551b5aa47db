package controllers

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/plainroute/plainroute/pkg/nodes"
	"github.com/plainroute/plainroute/pkg/topology"
	"github.com/plainroute/plainroute/test/apiserver"
)

// peers are Nodes of the LAN, by their numbers.
func peers(numbers ...int) []*corev1.Node {
	var all []*corev1.Node
	for _, i := range numbers {
		all = append(all, peer(i))
	}
	return all
}

// own is our own Node, IPv4 only, with peers.
func own(numbers ...int) []*corev1.Node {
	return append([]*corev1.Node{newNode("node1", "10.244.1.0/24", "192.168.1.11")}, peers(numbers...)...)
}

// quietly runs a pass that the story leaves out.
func (s *single) quietly() {
	s.t.Helper()
	n := s.story.Len()
	s.then("")
	s.story.Truncate(n)
}

// An agent waits for its Node and that Node's pod subnet, and then makes all changes in one pass.
func TestStoryOfAStart(t *testing.T) {
	s := newSingle(t, agentOptions{host: func(h *memoryHost) { h.facts.Ports = 3 }})
	s.then("no list yet")
	s.memory.edit(func(v *nodes.View) bool { v.Err = errors.New("connection refused"); return false })
	s.then("no API server")
	s.list(peers(2)...)
	s.then("our own Node is missing")
	s.set(newNode("node1", "192.168.1.11"))
	s.then("our own Node has no pod subnet")
	s.set(node1())
	s.then("it has one")
	s.then("nothing is new")
	s.check("start")
}

// Routes follow the Nodes.
func TestStoryOfNodes(t *testing.T) {
	s := newSingle(t, agentOptions{})
	s.list(own(2)...)
	s.quietly()
	s.set(peer(3))
	s.then("a peer comes")
	s.set(newNode("node3", "10.244.3.0/24", "192.168.1.33"))
	s.then("it gets another address")
	far := newNode("node4", "10.77.4.0/24", "192.168.1.14")
	s.set(far, newNode("node5", "127.0.0.0/24", "192.168.1.15"))
	s.unset(peer(3))
	s.then("it goes as two others come, one of them bad")
	s.unset(far)
	s.set(newNode("node5", "10.244.5.0/24", "192.168.1.15"))
	s.then("one goes, the bad one is good")
	s.unset(peer(2))
	heir := newNode("node6", "10.244.2.0/24", "192.168.1.16")
	heir.CreationTimestamp = metav1.Unix(2, 0)
	s.set(heir)
	s.then("a Node goes, and another one gets its subnet")
	thief := peer(2)
	thief.Name, thief.CreationTimestamp = "thief", metav1.Unix(1, 0)
	heir.Status.Addresses[0].Address = "192.168.1.66"
	s.set(thief, heir)
	s.then("an older Node wants the subnet of one that gets another address")
	s.check("nodes")
}

// An object that another process removes or changes is repaired, and counted as a repair.
func TestStoryOfRepairs(t *testing.T) {
	s := newSingle(t, agentOptions{})
	s.list(own(2, 3)...)
	s.pass()
	s.quietly()
	h := s.host
	for _, d := range []struct {
		what string
		do   func()
	}{
		{"a route is gone", func() { h.dropRoute(route("10.244.2.0/24", "192.168.1.12")) }},
		{"a route is another", func() { h.putRoute(route("10.244.3.0/24", "192.168.1.99")) }},
		{"a route is there that nobody wants", func() { h.putRoute(route("10.244.9.0/24", "192.168.1.19")) }},
		{"our own route is gone", func() { h.state.Routes = h.state.Routes[1:] }},
		{"the table is gone", func() { h.state.Masquerade = nil }},
		{"a setting is off", func() { h.state.Sysctls[topology.SysctlForward4] = "0" }},
		{"the bridge is down", func() { h.state.Devices[0].Up = false }},
		{"an address is gone", func() { h.state.Addresses = nil }},
		{"the CNI config is gone", func() { h.state.CNI = nil }},
		{"the CNI config and a route are gone", func() { h.state.CNI = nil; h.dropRoute(route("10.244.2.0/24", "192.168.1.12")) }},
	} {
		d.do()
		s.then(d.what)
	}
	h.dropRoute(route("10.244.2.0/24", "192.168.1.12"))
	s.set(peer(4))
	s.then("a route is gone as a peer comes")
	h.renameUplink()
	s.then("the uplink has another name")
	h.facts.Routes = append(h.facts.Routes, topology.Route{Dst: netip.MustParsePrefix("10.244.3.0/24"), Via: netip.MustParseAddr("192.168.1.254"), Dev: "eth9", Protocol: 4})
	s.then("a foreign route goes before ours")
	h.facts.Routes = h.facts.Routes[:len(h.facts.Routes)-1]
	s.then("it is gone")
	s.check("repairs")
}

// A change that the kernel refuses is retried after growing waits, and delays no other change.
func TestStoryOfRefusals(t *testing.T) {
	s := newSingle(t, agentOptions{host: func(h *memoryHost) { h.refuse("10.244.2.0/24", syscall.EINVAL) }})
	s.list(own(3)...)
	s.set(newNode("node2", "10.244.2.0/24", "fd00:10:244:2::/64", "192.168.1.12", "fd00:192:168:1::12"))
	s.then("a route is refused from the start")
	s.then("again")
	s.host.refuse("10.244.3.0/24", syscall.EINVAL)
	s.host.dropRoute(route("10.244.3.0/24", "192.168.1.13"))
	s.then("one that was there is taken away and refused")
	s.host.refuse("10.244.4.0/24", syscall.EINVAL)
	s.set(peer(4))
	s.then("a peer comes, and its route is refused")
	s.host.allow("10.244.2.0/24")
	s.then("the first one is taken")
	s.host.allow("10.244.3.0/24")
	s.then("the second one is taken")
	s.host.allow("10.244.4.0/24")
	s.then("all are taken")
	s.then("nothing is new")
	s.host.dropRoute(route("10.244.4.0/24", "192.168.1.14"))
	s.then("one that was refused is taken away")
	s.check("refusals")
}

// A failed read or write of this node is reported, and retried until it succeeds. Each failure is there from the start,
// and gone in the second pass.
func TestStoryOfFailures(t *testing.T) {
	type host = memoryHost
	stories := ""
	for _, c := range []struct {
		what string
		do   func(*host)
		opts func(*topology.Options)
	}{
		{"no right at all", func(h *host) { h.refusedApply = syscall.EPERM }, nil},
		{"no right to change a route", func(h *host) { h.refuse("10.244.2.0/24", syscall.EPERM) }, nil},
		{"settings don't stay", func(h *host) { h.forgetful = true }, nil},
		{"the table is refused", func(h *host) { h.refusedTable = errors.New("no nftables") }, nil},
		{"the table is refused, without masquerading", func(h *host) { h.refusedTable = errors.New("no nftables") }, func(o *topology.Options) { o.Masquerade = false }},
		{"the table is unread", func(h *host) { h.facts.TableUnread = "refused" }, nil},
		{"a setting is refused", func(h *host) { h.refusedSysctls = map[string]error{topology.SysctlForward4: syscall.EROFS} }, nil},
		{"the CNI config is refused", func(h *host) { h.refusedCNI = fmt.Errorf("writing: %w", syscall.EROFS) }, nil},
		{"the host can't be read", func(h *host) { h.refusedFacts = syscall.ENOBUFS }, nil},
		{"the kernel can't be read", func(h *host) { h.refusedObserve = syscall.ENOBUFS }, nil},
	} {
		s := newSingle(t, agentOptions{host: c.do, edit: c.opts})
		s.list(own(2)...)
		s.then(c.what)
		h := s.host
		h.refusedApply, h.forgetful, h.refusedTable, h.facts.TableUnread, h.refusedSysctls, h.refusedCNI, h.refusedFacts, h.refusedObserve =
			nil, false, nil, "", nil, nil, nil, nil
		clear(h.refusedRoutes)
		s.then("it is over")
		stories += s.story.String()
	}
	checkStory(t, "failures", stories)
}

// An object that another process keeps removing is repaired at once for a while, and then at intervals.
func TestStoryOfAFlap(t *testing.T) {
	s := newSingle(t, agentOptions{})
	s.list(own(2, 3)...)
	s.quietly()
	take := func() {
		s.host.dropRoute(route("10.244.2.0/24", "192.168.1.12"))
		s.host.state.Sysctls[topology.SysctlForward4] = "0"
	}
	for range immediateRepairs - flapThreshold {
		take()
		s.pass()
	}
	s.quietly()
	take()
	s.then("one more repair")
	for range flapThreshold - 2 {
		take()
		s.pass()
	}
	take()
	s.then("the last one at once")
	take()
	s.then("one too many")
	s.then("it waits")
	s.clock.step(repairInterval)
	s.then("its turn")
	for range flapLogInterval/repairInterval - 2 {
		s.clock.step(repairInterval)
		take()
		s.quietly()
	}
	s.clock.step(repairInterval)
	take()
	s.then("a minute later it still goes on")
	s.clock.step(flapLogInterval)
	take()
	s.then("a minute later again")
	s.clock.step(immediateRepairs * repairInterval)
	s.then("it has ended")
	take()
	s.then("and begins anew")
	s.check("flap")
}

// Very many changes of a kind in one pass are logged in one line.
func TestManyAtOnceAreOneLine(t *testing.T) {
	bad := func(i int) *corev1.Node {
		return newNode(fmt.Sprintf("bad%02d", i), fmt.Sprintf("127.0.%d.0/24", i), fmt.Sprintf("192.168.2.%d", i+1))
	}
	for _, c := range []struct {
		node      func(int) *corev1.Node
		each, all string
	}{
		{func(i int) *corev1.Node { return peer(i + 2) }, "Added route", `"Changed routes" added=21 replaced=0 deleted=0`},
		{bad, "PodCIDRRefused", `Problem reason=PodCIDRRefused count=21 one="node bad00: PodCIDRRefused: podCIDR 127.0.0.0/24 overlaps`},
	} {
		for n, want := range map[int]int{maxRouteLines: maxRouteLines, maxRouteLines + 1: 1} {
			s := newSingle(t, agentOptions{})
			s.list(own()...)
			s.pass()
			before := len(s.log.with())
			for i := range n {
				s.set(c.node(i))
			}
			s.pass()
			each, all := len(s.log.with(c.each)), len(s.log.with(c.all))
			if n := len(s.log.with()) - before; n != want || want > 1 && each < want || want == 1 && all != 1 {
				t.Errorf("%d lines, want %d: %q", n, want, s.log.with()[before:])
			}
		}
	}
}

// A removal that follows from a list that may be old must be confirmed by the API server.
func TestStoryOfACachedList(t *testing.T) {
	s := newSingle(t, agentOptions{host: leaveBehind(99)})
	s.memory.list(true, withUIDs(own(2))...)
	s.then("a route of a former run, and a list from the cache")
	s.host.state.Routes = slices.DeleteFunc(s.host.state.Routes, func(r *topology.Route) bool { return r.Dst == netip.MustParsePrefix("10.244.99.0/24") })
	s.then("somebody takes it away")
	s.memory.confirm(errors.New("no quorum"))
	s.then("no confirmation")
	s.host.state.Routes = slices.DeleteFunc(s.host.state.Routes, func(r *topology.Route) bool { return r.Dst == netip.MustParsePrefix("10.244.99.0/24") })
	s.confirm()
	s.then("somebody takes it away again as a confirmation comes")
	s.unset(peer(2))
	s.then("a peer leaves")
	s.check("cached")
}

// The loss of most peers is confirmed as well, and nothing is removed without our own Node.
func TestStoryOfRemovals(t *testing.T) {
	s := newSingle(t, agentOptions{})
	s.list(own(2, 3, 4, 5, 6, 7, 8, 9, 10)...)
	s.pass()
	s.unset(peers(2, 3, 4, 5, 6, 7, 8, 9, 10)...)
	s.pass()
	s.quietly()
	if n := len(s.host.routes()); n != 1 {
		t.Errorf("of nine peers that left at once, %d routes are left", n-1)
	}
	s.set(peers(2, 3, 4, 5, 6, 7, 8, 9, 10, 11)...)
	s.quietly()
	s.unset(peers(2, 3, 4, 5, 6)...)
	s.then("half of ten peers leave")
	s.set(peers(2, 3, 4, 5, 6)...)
	s.quietly()
	s.unset(peers(2, 3, 4, 5, 6, 7)...)
	s.then("more than half of them leave")
	s.set(peer(2))
	s.then("one of them is back")
	s.then("nothing is new")
	s.set(peers(3, 4, 5, 6, 7)...)
	s.then("all are")
	s.unset(peers(2, 3, 4, 5, 6, 7)...)
	s.then("they leave again")
	s.confirm()
	s.then("a confirmation")
	s.unset(own(8)...)
	s.then("our own Node is gone, and a peer")
	s.set(own()...)
	s.then("it is back")
	s.set(peers(2, 3, 4, 5, 6, 7, 8)...)
	s.quietly()
	s.unset(peers(2, 3, 4, 5, 6, 7)...)
	s.then("more than half of the peers leave, long after a confirmation")
	s.check("removals")
}

// confirm is a quorum read that starts now and agrees.
func (s *single) confirm() {
	s.t.Helper()
	if !s.memory.confirm(nil) {
		s.t.Error("no pass has asked for a confirmation")
	}
}

// A router forwards and has no pods; each removal is confirmed.
func TestStoryOfARouter(t *testing.T) {
	s := newSingle(t, agentOptions{edit: func(o *topology.Options) { o.Router, o.NodeName = true, "" }})
	s.list(peers(2, 3)...)
	s.then("a list")
	if got := s.latest.Last().Host; !got.Router || got.Addresses != nil || got.Subnets != nil || got.Uplinks != nil {
		t.Errorf("the host is %+v", got)
	}
	s.unset(peer(2))
	s.then("a peer leaves")
	s.confirm()
	s.then("a confirmation")
	s.unset(peer(3))
	s.then("all have left")
	s.check("router")
}

// Pods of a former subnet lead to a pass every second, and a runtime that loads no config to one at the end of its wait.
func TestStoryOfPods(t *testing.T) {
	s := newSingle(t, agentOptions{})
	s.list(own()...)
	s.quietly()
	s.host.facts.Ports, s.host.facts.Leases = 1, []netip.Addr{netip.MustParseAddr("10.244.1.7")}
	s.set(newNode("node1", "10.244.8.0/24", "192.168.1.11"))
	s.then("our Node has another pod subnet, and a pod on the former one")
	s.host.facts.Leases = nil
	s.then("the pod is gone")
	s.then("nothing is new")
	blind := newNode("node1", "10.244.8.0/24", "192.168.1.11")
	blind.Status.Conditions = apiserver.ReadyCondition(corev1.ConditionFalse, apiserver.NotInitialized)
	s.set(blind)
	s.then("the runtime has no network")
	s.clock.step(unreadAfter - time.Second)
	s.then("still")
	s.clock.step(time.Second)
	s.then("for long")
	s.host.facts.Links[1].MTU = 1400
	s.then("and the config changes")
	s.check("pods")
}
