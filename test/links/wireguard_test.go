package links

import (
	"crypto/ecdh"
	"crypto/rand"
	"encoding/binary"
	"net/netip"
	"testing"

	genl "github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/test/nodelab"
	"github.com/plainroute/plainroute/test/testutil"
)

// The names of linux/wireguard.h.
const (
	wgSetDevice = 1

	wgDeviceIndex, wgDevicePrivateKey, wgDevicePort, wgDevicePeers        = 1, 3, 6, 8
	wgPeerPublicKey, wgPeerFlags, wgPeerEndpoint, wgPeerAllowedIPs        = 1, 3, 4, 9
	wgAllowedFamily, wgAllowedAddress, wgAllowedBits                      = 1, 2, 3
	wgReplaceAllowedIPs                                            uint32 = 2

	wgPort = 51820
)

// wireguard makes a WireGuard device on each node, by which each of the others has the addresses that allowed returns. The encrypted
// packets take the second LAN.
func (f *fixture) wireguard(t *testing.T, allowed func(*nodelab.Node) []netip.Prefix) {
	t.Helper()
	keys := map[*nodelab.Node]*ecdh.PrivateKey{}
	for _, node := range f.nodes {
		key, err := ecdh.X25519().GenerateKey(rand.Reader)
		testutil.Must(t, err)
		keys[node] = key
		add(t, node, &netlink.Wireguard{LinkAttrs: attrs(under, nil)})
		address(t, node, under)
	}
	for _, node := range f.nodes {
		f.allow(t, node, keys, allowed)
	}
}

// allow sets a node's key and its peers.
func (f *fixture) allow(t *testing.T, node *nodelab.Node, keys map[*nodelab.Node]*ecdh.PrivateKey, allowed func(*nodelab.Node) []netip.Prefix) {
	t.Helper()
	e := genl.NewAttributeEncoder()
	e.Uint32(wgDeviceIndex, uint32(linkOf(t, node, under).Attrs().Index))
	e.Bytes(wgDevicePrivateKey, keys[node].Bytes())
	e.Uint16(wgDevicePort, wgPort)
	e.Nested(wgDevicePeers, func(e *genl.AttributeEncoder) error {
		for i, peer := range f.nodes {
			if peer != node {
				e.Nested(uint16(i), func(e *genl.AttributeEncoder) error {
					e.Bytes(wgPeerPublicKey, keys[peer].PublicKey().Bytes())
					e.Uint32(wgPeerFlags, wgReplaceAllowedIPs)
					e.Bytes(wgPeerEndpoint, endpoint(storageAddrs(peer)[0]))
					e.Nested(wgPeerAllowedIPs, allowedIPs(allowed(peer)))
					return nil
				})
			}
		}
		return nil
	})
	attributes, err := e.Encode()
	testutil.Must(t, err)
	testutil.Must(t, node.Do(func() error { return setDevice(attributes) }))
}

// endpoint is a struct sockaddr_in.
func endpoint(addr netip.Addr) []byte {
	b := binary.NativeEndian.AppendUint16(nil, unix.AF_INET)
	b = binary.BigEndian.AppendUint16(b, wgPort)
	return append(append(b, addr.AsSlice()...), make([]byte, 8)...)
}

func allowedIPs(all []netip.Prefix) func(*genl.AttributeEncoder) error {
	return func(e *genl.AttributeEncoder) error {
		for i, p := range all {
			family := uint16(unix.AF_INET)
			if p.Addr().Is6() {
				family = unix.AF_INET6
			}
			e.Nested(uint16(i), func(e *genl.AttributeEncoder) error {
				e.Uint16(wgAllowedFamily, family)
				e.Bytes(wgAllowedAddress, p.Addr().AsSlice())
				e.Uint8(wgAllowedBits, uint8(p.Bits()))
				return nil
			})
		}
		return nil
	}
}

// setDevice configures a WireGuard device of the thread's network namespace.
func setDevice(attributes []byte) error {
	family, err := netlink.GenlFamilyGet("wireguard")
	if err != nil {
		return err
	}
	conn, err := genl.Dial(unix.NETLINK_GENERIC, nil)
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = conn.Execute(genl.Message{
		Header: genl.Header{Type: genl.HeaderType(family.ID), Flags: genl.Request | genl.Acknowledge},
		Data:   append([]byte{wgSetDevice, 1, 0, 0}, attributes...),
	})
	return err
}

func podsToo(node *nodelab.Node) []netip.Prefix { return append(networks(node, true), node.Subnets...) }

func nodeOnly(node *nodelab.Node) []netip.Prefix { return networks(node, true) }
