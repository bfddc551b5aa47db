package dataplane

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/topology"
)

// linkMessage makes struct ifinfomsg with attributes (linux/if_link.h), up but for other flags.
func linkMessage(index int, name string, flags uint32, attributes ...[]byte) []byte {
	b := binary.NativeEndian.AppendUint32([]byte{unix.AF_UNSPEC, 0, 0, 0}, uint32(index))
	b = binary.NativeEndian.AppendUint32(binary.NativeEndian.AppendUint32(b, unix.IFF_UP^flags), 0)
	return slices.Concat(append([][]byte{b, appendAttribute(nil, unix.IFLA_IFNAME, append([]byte(name), make([]byte, 4-len(name)%4)...))}, attributes...)...)
}

// ofKind makes IFLA_LINKINFO.
func ofKind(kind string) []byte {
	info := appendAttribute(nil, unix.IFLA_INFO_KIND, append([]byte(kind), make([]byte, 4-len(kind)%4)...))
	return appendAttribute(nil, unix.IFLA_LINKINFO|unix.NLA_F_NESTED, info)
}

func mtuAttribute(mtu uint32) []byte      { return numberAttribute(unix.IFLA_MTU, mtu) }
func masterAttribute(index uint32) []byte { return numberAttribute(unix.IFLA_MASTER, index) }

// Of a link's notification all is taken that can change routes through it.
func TestLinkMessages(t *testing.T) {
	mac := []byte{2, 0, 0, 0, 0, 7}
	for name, c := range map[string]struct {
		bytes []byte
		want  linkIdent
		kind  string
	}{
		"up":            {linkMessage(7, "eth7", 0, mtuAttribute(1400), masterAttribute(3), ofKind("veth")), linkIdent{name: "eth7", mtu: 1400, master: 3, up: true}, "veth"},
		"down":          {linkMessage(7, "eth7", unix.IFF_UP), linkIdent{name: "eth7"}, "device"},
		"no ARP":        {linkMessage(7, "eth7", unix.IFF_NOARP, appendAttribute(nil, unix.IFLA_ADDRESS, append(mac, 0, 0))), linkIdent{name: "eth7", up: true, noARP: true, mac: string(mac) + "\x00\x00"}, "device"},
		"carrier":       {linkMessage(7, "eth7", unix.IFF_LOWER_UP), linkIdent{name: "eth7", up: true, carrier: true}, "device"},
		"of a bridge":   {linkMessage(7, "br7", unix.IFF_LOWER_UP, ofKind("bridge")), linkIdent{name: "br7", up: true}, "bridge"},
		"no name":       {linkMessage(7, "", 0)[:unix.SizeofIfInfomsg], linkIdent{up: true}, "device"},
		"broken":        {append(linkMessage(7, "eth7", 0), 3, 0, 1, 0), linkIdent{name: "eth7", up: true}, "device"},
		"of a bad kind": {linkMessage(7, "eth7", 0, appendAttribute(nil, unix.IFLA_LINKINFO|unix.NLA_F_NESTED, appendAttribute(nil, unix.IFLA_INFO_DATA, []byte("abc\x00")))), linkIdent{name: "eth7", up: true}, "device"},
	} {
		if index, got, kind := parseLink(c.bytes); index != 7 || got != c.want || kind != c.kind {
			t.Errorf("%s: index %d, %+v of kind %s", name, index, got, kind)
		}
	}
}

// The notified Kernel has these links, by index. The kernel has none of them when it is asked.
const (
	knownLan, knownOther, knownBridge, knownGone, knownLeft = 802, 803, 804, 805, 806
)

// links in the kernel: a port of the bridge, a pod's detached one, and another program's.
type linksThere struct{ port, left, other int }

// notified returns a Kernel that has read some links, and nothing is stale.
func (m *machine) notified(there linksThere) *Kernel {
	k := &Kernel{
		cfg: Config{Bridge: topology.Bridge}, handle: m.nl, links: newLinkFacts(8), left: make(chan struct{}, 1),
		advertised: map[string]bool{"heard0": true}, fresh: freshness{true, true, true, true, true},
	}
	for index, id := range map[int]linkIdent{
		knownLan: {name: "lan0", mtu: 1500, up: true}, knownOther: {name: "other0", up: true}, knownBridge: {name: topology.Bridge, up: true},
		knownGone: {name: "port1", master: knownBridge, up: true}, knownLeft: {name: "left1", up: true},
		there.port: {name: "port0", master: knownBridge, up: true}, there.left: {name: "left0", up: true}, there.other: {name: "veth0", up: true},
	} {
		k.links.note(index, id, false)
	}
	k.links.list = []topology.Link{{Name: "lan0"}, {Name: topology.Bridge}}
	k.links.pods[there.left], k.links.pods[knownLeft] = netip.MustParseAddr("10.128.0.9"), netip.MustParseAddr("10.128.0.8")
	return k
}

// A change of a link makes routes stale if routes can go through it, it may receive router
// advertisements, or it cuts off a pod. Other changes are only remembered.
func TestLinkNotifications(t *testing.T) {
	m := newMachine(t)
	m.addVeth("port0", 1500)
	there := linksThere{m.link("port0").Attrs().Index, m.link("port0-peer").Attrs().Index, m.link("eth0").Attrs().Index}
	veth, inBridge := ofKind("veth"), masterAttribute(knownBridge)
	const changed, created, deleted = unix.RTM_SETLINK, unix.RTM_NEWLINK, unix.RTM_DELLINK // a change is announced as if it were new
	for name, c := range map[string]struct {
		kind  uint16
		bytes []byte
		news  bool
	}{
		"nothing changed":                   {changed, linkMessage(knownLan, "lan0", 0, mtuAttribute(1500)), false},
		"MTU":                               {changed, linkMessage(knownLan, "lan0", 0, mtuAttribute(1400)), true},
		"down":                              {changed, linkMessage(knownLan, "lan0", unix.IFF_UP, mtuAttribute(1500)), true},
		"deleted":                           {deleted, linkMessage(knownLan, "lan0", 0, mtuAttribute(1500)), true},
		"of a link without routes":          {changed, linkMessage(knownOther, "other0", unix.IFF_UP), true},
		"of a link without routes, deleted": {deleted, linkMessage(knownOther, "other0", 0), false},
		"uplink that comes":                 {created, linkMessage(77, "lan1", 0), true},
		"port that comes":                   {created, linkMessage(77, "vethpod", 0, veth), false},
		"port of a bond that comes":         {created, linkMessage(77, "lan1", 0, masterAttribute(knownOther)), false},
		"bridge that comes":                 {created, linkMessage(77, topology.Bridge, 0, veth), true},
		"port with advertisements before":   {created, linkMessage(77, "heard0", 0, veth), true},
		"port, the same":                    {changed, linkMessage(there.port, "port0", 0, veth, inBridge), false},
		"port, MTU":                         {changed, linkMessage(there.port, "port0", 0, veth, inBridge, mtuAttribute(1400)), false},
		"port set down":                     {changed, linkMessage(there.port, "port0", unix.IFF_UP, veth, inBridge), true},
		"port taken out":                    {changed, linkMessage(there.port, "port0", 0, veth), true},
		"port taken elsewhere":              {changed, linkMessage(there.port, "port0", 0, veth, masterAttribute(knownOther)), true},
		"port about to be deleted":          {changed, linkMessage(knownGone, "port1", 0, veth), false},
		"port deleted":                      {deleted, linkMessage(knownGone, "port1", 0, veth, inBridge), false},
		"pod's, out of the bridge":          {changed, linkMessage(there.left, "left0", unix.IFF_UP, veth), true},
		"that, about to be deleted":         {changed, linkMessage(knownLeft, "left1", unix.IFF_UP, veth), false},
		"that, deleted":                     {deleted, linkMessage(knownLeft, "left1", 0, veth), true},
		"foreign, set down":                 {changed, linkMessage(there.other, "veth0", unix.IFF_UP, veth), false},
		"header alone":                      {changed, linkMessage(knownLan, "lan0", 0)[:unix.SizeofIfInfomsg], true},
		"cut off":                           {changed, linkMessage(knownLan, "lan0", 0)[:unix.SizeofIfInfomsg-1], false},
	} {
		k := m.notified(there)
		kind := c.kind
		if kind == changed {
			kind = unix.RTM_NEWLINK
		}
		news := k.learnOne(netlink.Message{Header: netlink.Header{Type: netlink.HeaderType(kind)}, Data: c.bytes})
		if news != c.news || k.fresh.routes == c.news {
			t.Errorf("%s: news %t, routes fresh %t", name, news, k.fresh.routes)
		}
		if came := k.LinkChanges(); (came == 1) != (c.kind != changed) || came > 1 {
			t.Errorf("%s: %d links have come or gone", name, came)
		}
		if name == "cut off" || news {
			continue
		}
		index, id, _ := parseLink(c.bytes)
		if have := k.links.idents[index]; (have == id) != (c.kind != deleted) {
			t.Errorf("%s: it counts as %+v", name, have)
		}
	}
}

// While links are stale, or were never read, every notification counts, and a new port is
// remembered for as long as it exists.
func TestLinkNotificationsWhileStale(t *testing.T) {
	port := linkMessage(77, "vethpod", 0, ofKind("veth"), masterAttribute(knownBridge))
	learns := func(k *Kernel, kind uint16) bool {
		return k.learnOne(netlink.Message{Header: netlink.Header{Type: netlink.HeaderType(kind)}, Data: port})
	}
	k := newMachine(t).notified(linksThere{7, 8, 9})
	k.links.kinds[topology.Bridge] = topology.KindBridge
	k.fresh.routes = false
	if !learns(k, unix.RTM_NEWLINK) || !k.links.seen[77] {
		t.Error("a port that comes is no news, or not remembered")
	}
	if !learns(k, unix.RTM_DELLINK) || k.links.seen[77] {
		t.Error("a deleted port counts for nothing, or is still remembered")
	}
	if k.links = nil; !learns(k, unix.RTM_NEWLINK) || k.LinkChanges() != 3 {
		t.Errorf("before links are read a port is no news, or not counted: %d", k.LinkChanges())
	}
}

// The bridge's family announces a port that leaves, which makes nothing stale by itself.
func TestNotificationsOfTheBridgesFamily(t *testing.T) {
	left := changedAt(linkMessage(knownGone, "port1", 0, masterAttribute(knownBridge)), 0, unix.AF_BRIDGE)
	for kind, want := range map[netlink.HeaderType]int{unix.RTM_NEWLINK: 0, unix.RTM_DELLINK: 1} {
		k := newMachine(t).notified(linksThere{7, 8, 9})
		news := k.learnOne(netlink.Message{Header: netlink.Header{Type: kind}, Data: left})
		if news || len(k.left) != want || k.LinkChanges() != 0 || !k.fresh.routes {
			t.Errorf("of kind %d: news %t, %d ports have left, %d links came or went", kind, news, len(k.left), k.LinkChanges())
		}
	}
}

// Addresses are news, but for the link-local ones of IPv6 that the kernel gives to each link,
// unless the bridge loses its.
func TestAddressNotifications(t *testing.T) {
	m := newMachine(t)
	message := func(index int, attributes ...[]byte) []byte { // struct ifaddrmsg (rtnetlink(7))
		return slices.Concat(append([][]byte{{unix.AF_INET6, 64, 0, 0, byte(index), byte(index >> 8), 0, 0}}, attributes...)...)
	}
	local, global := addressAttribute(unix.IFA_ADDRESS, "fe80::1"), addressAttribute(unix.IFA_ADDRESS, "fd00::1")
	const created, deleted = unix.RTM_NEWADDR, unix.RTM_DELADDR
	for name, c := range map[string]struct {
		kind  netlink.HeaderType
		bytes []byte
		news  bool
	}{
		"global":                     {created, message(knownLan, global), true},
		"IPv4":                       {created, message(knownLan, addressAttribute(unix.IFA_ADDRESS, "192.168.1.7")), true},
		"link-local of IPv4":         {created, message(knownLan, addressAttribute(unix.IFA_ADDRESS, "169.254.1.1")), true},
		"link-local":                 {created, message(knownLan, local), false},
		"link-local, lost":           {deleted, message(knownLan, local), false},
		"link-local of the bridge":   {created, message(knownBridge, local), false},
		"lost by the bridge":         {deleted, message(knownBridge, local), true},
		"link-local, of a broadcast": {created, message(knownLan, addressAttribute(unix.IFA_BROADCAST, "fe80::1")), true},
		"after another attribute":    {created, message(knownLan, numberAttribute(unix.IFA_FLAGS, 0), local), false},
		"of no family":               {created, message(knownLan, appendAttribute(nil, unix.IFA_ADDRESS, []byte{1, 2, 3, 0})[:7]), true},
		"without attributes":         {created, message(knownLan), true},
		"broken":                     {created, message(knownLan, []byte{3, 0, 1, 0}), true},
		"cut off":                    {created, message(knownLan)[:7], false},
	} {
		k := m.notified(linksThere{7, 8, 9})
		if news := k.learnOne(netlink.Message{Header: netlink.Header{Type: c.kind}, Data: c.bytes}); news != c.news || k.fresh.routes == news {
			t.Errorf("%s: news %t, routes fresh %t", name, news, k.fresh.routes)
		}
	}
	k := m.notified(linksThere{7, 8, 9})
	delete(k.links.byName, topology.Bridge)
	if k.learnOne(netlink.Message{Header: netlink.Header{Type: deleted}, Data: message(0, local)}) {
		t.Error("without a bridge, it has lost an address")
	}
	if k.links = nil; k.learnOne(netlink.Message{Header: netlink.Header{Type: deleted}, Data: message(0, local)}) {
		t.Error("before links are read, the bridge has lost an address")
	}
}

// Forwarding and rp_filter are news where it differs from what is kept of a setting.
func TestSettingNotifications(t *testing.T) {
	m := newMachine(t)
	message := func(family byte, attributes ...[]byte) []byte { // struct netconfmsg (linux/netconf.h)
		return slices.Concat(append([][]byte{{family, 0, 0, 0}}, attributes...)...)
	}
	const all = 1<<32 - 1 // NETCONFA_IFINDEX_ALL, -1
	index, value := func(n uint32) []byte { return numberAttribute(netconfIndex, n) }, func(n uint32) []byte { return numberAttribute(netconfForwarding, n) }
	known := map[string]string{
		topology.SysctlForward4: "1", topology.SysctlForward6: "0", "net/ipv4/conf/lan0/forwarding": "0", "net/ipv6/conf/lan0/forwarding": "1",
		"net/ipv4/conf/all/rp_filter": "0", "net/ipv4/conf/lan0/rp_filter": "2",
	}
	filter := func(n uint32) []byte { return numberAttribute(netconfRPFilter, n) }
	for name, c := range map[string]struct {
		bytes []byte
		news  bool
	}{
		"IPv4 on, as before":             {message(unix.AF_INET, index(all), value(1)), false},
		"IPv4 off":                       {message(unix.AF_INET, index(all), value(0)), true},
		"IPv6 off, as before":            {message(unix.AF_INET6, index(all), value(0)), false},
		"IPv6 on":                        {message(unix.AF_INET6, index(all), value(1)), true},
		"a link's, as before":            {message(unix.AF_INET, index(knownLan), value(0)), false},
		"a link's on":                    {message(unix.AF_INET, index(knownLan), value(1)), true},
		"a link's of IPv6, as before":    {message(unix.AF_INET6, index(knownLan), value(1)), false},
		"a link's of IPv6 off":           {message(unix.AF_INET6, index(knownLan), value(0)), true},
		"a link's of which none is kept": {message(unix.AF_INET, index(knownOther), value(1)), false},
		"another setting":                {message(unix.AF_INET, index(all), numberAttribute(4, 7)), false},
		"strict filters":                 {message(unix.AF_INET, index(all), filter(1)), true},
		"no strict filters, as before":   {message(unix.AF_INET, index(all), filter(0)), false},
		"a link's strict filter":         {message(unix.AF_INET, index(knownLan), filter(1)), true},
		"a link's filter, as before":     {message(unix.AF_INET, index(knownLan), filter(2)), false},
		"filters of IPv6":                {message(unix.AF_INET6, index(all), filter(1)), false},
		"broken":                         {message(unix.AF_INET, index(all), value(0), []byte{3, 0, 1, 0}), true},
		"cut off":                        {message(unix.AF_INET)[:3], false},
		"header alone":                   {message(unix.AF_INET), false},
	} {
		k := m.notified(linksThere{7, 8, 9})
		k.sysctls = known
		learns := func() bool {
			return k.learnOne(netlink.Message{Header: netlink.Header{Type: unix.RTM_NEWNETCONF}, Data: c.bytes})
		}
		if news := learns(); news != c.news || k.fresh.sysctls == news {
			t.Errorf("%s: news %t, settings fresh %t", name, news, k.fresh.sysctls)
		}
		k.fresh.sysctls = false
		if !learns() {
			t.Errorf("%s: no news while settings are to be read", name)
		}
		if k.fresh = (freshness{sysctls: true}); learns() || !k.fresh.sysctls {
			t.Errorf("%s: news while all is to be read", name)
		}
	}
}

// Notifications of our table count if another program changed it, and not if we did.
func TestTableNotifications(t *testing.T) {
	m := newMachine(t)
	message := func(family byte, attributes ...[]byte) []byte { // struct nfgenmsg
		return slices.Concat(append([][]byte{{family, 0, 0, 0}}, attributes...)...)
	}
	table := func(name string) []byte { return appendAttribute(nil, unix.NFTA_TABLE_NAME, []byte(name)) }
	before := appendAttribute(nil, unix.NFTA_TABLE_FLAGS, []byte(topology.Table+"\x00\x00"))
	other := m.nftConn.PID() + 1
	for name, c := range map[string]struct {
		bytes []byte
		port  uint32
		news  bool
	}{
		"ours":               {message(unix.NFPROTO_INET, table(topology.Table+"\x00")), other, true},
		"by us":              {message(unix.NFPROTO_INET, table(topology.Table+"\x00")), other - 1, false},
		"after others":       {message(unix.NFPROTO_INET, before, table(topology.Table+"\x00")), other, true},
		"another":            {message(unix.NFPROTO_INET, table("plainroute2\x00")), other, false},
		"of another family":  {message(unix.NFPROTO_IPV4, table(topology.Table+"\x00")), other, false},
		"of no table":        {message(unix.NFPROTO_INET, before), other, false},
		"broken":             {message(unix.NFPROTO_INET, table(topology.Table+"\x00\x00"), []byte{3, 0, 1, 0}), other, true},
		"without attributes": {message(unix.NFPROTO_INET), other, false},
		"cut off":            {[]byte{unix.NFPROTO_INET, 0, 0}, other, false},
		"of nothing":         {nil, other, false},
	} {
		k := m.notified(linksThere{7, 8, 9})
		k.nftConn = m.nftConn
		about := netlink.Message{Header: netlink.Header{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWRULE, PID: c.port}, Data: c.bytes}
		if news := k.learnOne(about); news != c.news || k.fresh.masquerade == news {
			t.Errorf("%s: news %t, the table is fresh %t", name, news, k.fresh.masquerade)
		}
		if k.nftConn = nil; c.news && !k.learnOne(about) {
			t.Errorf("%s: no news before we have a connection", name)
		}
	}
	if k := m.notified(linksThere{7, 8, 9}); k.learnOne(netlink.Message{Header: netlink.Header{Type: unix.RTM_NEWNEIGH}}) || k.fresh != (freshness{true, true, true, true, true}) {
		t.Error("a neighbor is news")
	}
}
