package links

import (
	"errors"
	"os"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/test/nodelab"
	"github.com/plainroute/plainroute/test/testutil"
)

// A link whose packets have no next hop in them, as in PPP: each node's end is a tun device, and what goes in at one end comes out
// at the other.
func TestPointToPoint(t *testing.T) {
	ctx := testutil.Within(t, limit)
	f := setup(t)
	one, other := tun(t, f.nodes[0]), tun(t, f.nodes[1])
	go carry(one, other)
	go carry(other, one)
	for i, node := range f.nodes {
		address(t, node, under, networks(node, true)...)
		lead(t, node, f.nodes[1-i], under)
	}
	f.on(t, underAddresses)
	f.start(ctx, t)
	awaitDevice(t, f.nodes[0], f.nodes[1], under)
	f.reachEachOther(ctx, t)
	f.again(ctx, t, "--encapsulation=cross-subnet")
	awaitDevice(t, f.nodes[0], f.nodes[1], tunnels...)
	f.reachEachOther(ctx, t)
}

// carry takes packets from one end to the other, until an end is closed. A packet to an end that is down is lost.
func carry(from, to *os.File) {
	packet := make([]byte, 1<<16)
	for {
		size, err := from.Read(packet)
		if err != nil {
			return
		}
		_, _ = to.Write(packet[:size])
	}
}

// tun adds the device, and returns the file with its packets.
func tun(t *testing.T, node *nodelab.Node) *os.File {
	t.Helper()
	device := &netlink.Tuntap{LinkAttrs: attrs(under, nil), Mode: netlink.TUNTAP_MODE_TUN, Flags: netlink.TUNTAP_NO_PI, Queues: 1, NonPersist: true}
	if err := node.Do(func() error { return netlink.LinkAdd(device) }); err != nil {
		t.Skipf("no tun devices here: %v", err)
	}
	// Only now that the file has its device can the runtime poll it.
	fd, err := unix.Dup(int(device.Fds[0].Fd()))
	testutil.Must(t, errors.Join(err, unix.SetNonblock(fd, true), device.Fds[0].Close()))
	file := os.NewFile(uintptr(fd), under)
	t.Cleanup(func() { file.Close() })
	return file
}
