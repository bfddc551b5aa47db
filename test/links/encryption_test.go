package links

import (
	"bytes"
	"context"
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/test/netlab"
	"github.com/plainroute/plainroute/test/nodelab"
	"github.com/plainroute/plainroute/test/testutil"
)

// tunnels are the devices of tunnels, by family.
var tunnels = []string{"plainroute-v4", "plainroute-v6"}

// The InternalIPs are on a WireGuard device. It chooses the peer by the destination of the inner packet, so it must know the pod
// subnets (AllowedIPs), or see none.
func TestWireGuard(t *testing.T) {
	for name, c := range map[string]struct {
		allowed func(*nodelab.Node) []netip.Prefix
		setting string
		devices []string
		mtu     int
	}{
		"allowed pods":           {podsToo, "never", []string{under}, 1420},
		"tunnels to all":         {nodeOnly, "always", tunnels, 1420 - 70},
		"tunnels across subnets": {nodeOnly, "cross-subnet", tunnels, 1420 - 70},
	} {
		t.Run(name, func(t *testing.T) {
			ctx := testutil.Within(t, limit)
			f := setup(t)
			f.wireguard(t, c.allowed)
			for _, node := range f.nodes {
				address(t, node, under, networks(node, false)...)
			}
			f.on(t, underAddresses)
			f.start(ctx, t, "--encapsulation="+c.setting)
			awaitDevice(t, f.nodes[0], f.nodes[1], c.devices...)
			f.reachEachOther(ctx, t)
			f.podMTU(t, c.mtu)
			f.encrypted(ctx, t)
		})
	}
}

// The routes to the nodes are in another table, as those of Tailscale, which rules lead to.
func TestRoutesInAnotherTable(t *testing.T) {
	const table = 52 // Tailscale's
	ctx := testutil.Within(t, limit)
	f := setup(t)
	f.wireguard(t, nodeOnly)
	for i, node := range f.nodes {
		address(t, node, under, networks(node, true)...)
		for _, p := range networks(f.nodes[1-i], true) {
			testutil.Must(t, node.Handle().RouteAdd(&netlink.Route{Dst: ipNet(p), LinkIndex: linkOf(t, node, under).Attrs().Index, Table: table}))
		}
		for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
			rule := netlink.NewRule()
			rule.Table, rule.Priority, rule.Family = table, 5270, family
			testutil.Must(t, node.Handle().RuleAdd(rule))
		}
	}
	f.on(t, underAddresses)
	f.start(ctx, t, "--encapsulation=always")
	for _, setting := range []string{"always", "cross-subnet"} {
		f.again(ctx, t, "--encapsulation="+setting)
		awaitDevice(t, f.nodes[0], f.nodes[1], tunnels...)
		f.reachEachOther(ctx, t)
		f.encrypted(ctx, t)
	}
}

// encrypted fails the test if a question from one pod to the other is to be read on the way, or no WireGuard packet is.
func (f *fixture) encrypted(ctx context.Context, t *testing.T) {
	t.Helper()
	var socket int
	testutil.Must(t, f.LAN.Do(func() (err error) {
		socket, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.ETH_P_ALL<<8)
		return err
	}))
	defer unix.Close(socket)
	for _, address := range f.pods[1].Addrs() {
		_, err := f.pods[0].UDP(ctx, address)
		testutil.Must(t, err)
	}
	wireguards, frame := 0, make([]byte, 1<<16)
	for {
		size, err := unix.Read(socket, frame)
		if err != nil {
			break
		}
		if bytes.Contains(frame[:size], []byte(netlab.Question)) {
			t.Errorf("on the LAN: %q", frame[:size])
		}
		if bytes.Contains(frame[:size], binary.BigEndian.AppendUint16(nil, wgPort)) {
			wireguards++
		}
	}
	if wireguards == 0 {
		t.Error("no packet to WireGuard's port on the LAN")
	}
}
