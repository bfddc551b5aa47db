package plan

import (
	"testing"

	"github.com/plainroute/plainroute/pkg/topology"
)

// An MTU that is not known yet is left out of the command, because the kernel refuses 0.
func TestBridgeWithoutMTU(t *testing.T) {
	for mtu, want := range map[int]string{
		0:    "ip link add br0 address 0a:58:0a:f4:01:01 type bridge",
		1500: "ip link add br0 address 0a:58:0a:f4:01:01 mtu 1500 type bridge",
	} {
		b := Bridge{topology.Device{Name: "br0", MTU: mtu, MAC: "0a:58:0a:f4:01:01"}}
		if got := b.command(Add); got != want {
			t.Errorf("MTU %d: %q, want %q", mtu, got, want)
		}
	}
}
