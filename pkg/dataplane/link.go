package dataplane

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	rtnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/topology"
)

// linkFacts are the links that routes can go through: those with an address, those of foreign
// routes, those that may receive router advertisements; and bridges, one of which may be ours under
// another name. The many ports of the bridge are left out.
type linkFacts struct {
	list      []topology.Link
	idents    map[int]linkIdent // of all links, by index
	byName    map[string]int
	kinds     map[string]string  // what each was when all were read, by name
	vrfs      map[string]uint32  // the tables of VRFs, by name
	pods      map[int]netip.Addr // an address of the pod behind a port that is down or out of the bridge
	conflicts map[int]int        // ports with the same pod's address as another
	seen      map[int]bool       // links that were seen in the bridge, now or before
	mac       string             // of the bridge
	tunnels   map[int]topology.Tunnel
	ends      []topology.Address // of tunnels
	local6    bool               // whether the bridge has a usable IPv6 link-local address
}

// A linkIdent has the properties of a link that affect routes through it.
type linkIdent struct {
	name        string
	mtu, master int
	up, noARP   bool
	carrier     bool   // not of a bridge, which has one while one of its ports has
	mac         string // its bytes
}

func identOf(l rtnl.Link) linkIdent {
	a := l.Attrs()
	id := linkIdent{name: a.Name, mtu: a.MTU, master: a.MasterIndex, mac: string(a.HardwareAddr)}
	id.flags(a.RawFlags, kindOf(l))
	return id
}

// flags takes over ifi_flags of struct ifinfomsg (linux/if.h).
func (id *linkIdent) flags(flags uint32, kind string) {
	id.up, id.noARP = flags&unix.IFF_UP != 0, flags&unix.IFF_NOARP != 0
	id.carrier = flags&unix.IFF_LOWER_UP != 0 && kind != topology.KindBridge
}

// readLinks lists links and addresses. It returns all links by index; keepRouted selects the
// relevant ones once the routes are known.
func (k *Kernel) readLinks() (*linkFacts, map[int]*topology.Link, error) {
	links, err := RetryDump(k.handle.LinkList)
	if err != nil {
		return nil, nil, fmt.Errorf("listing links: %w", err)
	}
	addrs, err := RetryDump(func() ([]rtnl.Addr, error) { return k.handle.AddrList(nil, rtnl.FAMILY_ALL) })
	if err != nil {
		return nil, nil, fmt.Errorf("listing addresses: %w", err)
	}
	facts := newLinkFacts(len(links))
	byIndex := make(map[int]*topology.Link, len(links))
	for _, l := range links {
		a := l.Attrs()
		facts.note(a.Index, identOf(l), false)
		facts.kinds[a.Name] = kindOf(l)
		if vrf, is := l.(*rtnl.Vrf); is {
			facts.vrfs[a.Name] = vrf.Table
		}
		t, ours := tunnelOf(l)
		if !ours {
			t, ours = k.lostMark(l)
		}
		if ours {
			facts.tunnels[a.Index] = t
		}
		if ours || a.Name == unmarkedTunnel { // the host's are those of other programs
			continue
		}
		byIndex[a.Index] = &topology.Link{
			Name: a.Name, MTU: a.MTU, Loopback: a.Flags&net.FlagLoopback != 0, Kind: kindOf(l), Enslaved: a.MasterIndex != 0,
			NoCarrier: !facts.idents[a.Index].carrier && kindOf(l) != topology.KindBridge, PointToPoint: a.RawFlags&unix.IFF_POINTOPOINT != 0,
		}
		if v, is := l.(*rtnl.Vxlan); is {
			byIndex[a.Index].VNI, byIndex[a.Index].VXLANPort = v.VxlanId, v.Port
		}
		if kindOf(l) == topology.KindBridge {
			byIndex[a.Index].MAC = a.HardwareAddr.String()
		}
		if a.Name == k.cfg.Bridge {
			facts.mac = a.HardwareAddr.String()
		}
	}
	for index, link := range byIndex {
		master := facts.name(facts.idents[index].master)
		if table, is := facts.vrfs[master]; is {
			link.VRF, link.VRFTable = master, int(table)
		}
	}
	facts.remember(k.links, k.cfg.Bridge)
	k.findPods(links, facts)
	for _, a := range addrs {
		facts.addEnd(a)
		if link := byIndex[a.LinkIndex]; link != nil {
			addAddr(link, a)
			facts.local6 = facts.local6 || link.Name == k.cfg.Bridge && usableLinkLocal(a)
		}
	}
	return facts, byIndex, nil
}

// usableLinkLocal reports whether an address is an IPv6 link-local one that the kernel sends from.
// During duplicate address detection the kernel does not resolve pods from it, and afterwards only
// after a second (ndisc_send_ns of net/ipv6/ndisc.c).
func usableLinkLocal(a rtnl.Addr) bool {
	return a.IP.To4() == nil && a.IP.IsLinkLocalUnicast() && a.Flags&unix.IFA_F_TENTATIVE == 0
}

func newLinkFacts(n int) *linkFacts {
	return &linkFacts{
		idents: make(map[int]linkIdent, n), byName: make(map[string]int, n), kinds: make(map[string]string, n), vrfs: map[string]uint32{},
		tunnels: map[int]topology.Tunnel{}, pods: map[int]netip.Addr{}, conflicts: map[int]int{}, seen: map[int]bool{},
	}
}

// kindOf returns the kernel's name of a link's kind; the netlink library has another one for tun.
func kindOf(l rtnl.Link) string {
	if kind := l.Type(); kind != "tuntap" {
		return kind
	}
	return "tun"
}

// addAddr adds an address to a link, except for the link-local ones that the kernel assigns to each
// IPv6 link.
func addAddr(link *topology.Link, a rtnl.Addr) {
	ip, ok := netip.AddrFromSlice(a.IP)
	if !ok {
		return
	}
	ip = ip.Unmap()
	if ip.Is6() && ip.IsLinkLocalUnicast() {
		return
	}
	bits, _ := a.Mask.Size()
	link.Addrs = append(link.Addrs, netip.PrefixFrom(ip, bits))
	if ip.Is6() && a.Flags&unix.IFA_F_PERMANENT == 0 {
		link.RouterAdvertised = true
	}
}

// RetryDump repeats a dump that a change interrupted, because its result is not whole.
func RetryDump[T any](dump func() (T, error)) (T, error) {
	const tries = 10
	last, err := dump()
	for n := 1; n < tries && errors.Is(err, rtnl.ErrDumpInterrupted); n++ {
		last, err = dump()
	}
	return last, err
}

// keepRouted keeps the links that routes can go through or that may receive router advertisements,
// and bridges, sorted by name.
func (f *linkFacts) keepRouted(byIndex map[int]*topology.Link, foreign []topology.Route, bridge string) {
	routed := map[string]bool{bridge: true}
	for _, r := range foreign {
		routed[r.Dev] = true
	}
	for _, link := range byIndex {
		if len(link.Addrs) > 0 || link.RouterAdvertised || routed[link.Name] || link.Kind == topology.KindBridge || !link.Enslaved && !topology.FacesGuests(link.Kind) {
			f.list = append(f.list, *link)
		}
	}
	slices.SortFunc(f.list, func(a, b topology.Link) int { return strings.Compare(a.Name, b.Name) })
}

// name returns a device's name. For a device that was added after the list, it is made from the
// index.
func (f *linkFacts) name(index int) string {
	if id, ok := f.idents[index]; ok {
		return id.name
	}
	return "if" + strconv.Itoa(index)
}

// note updates the names after a link was added, deleted or renamed.
func (f *linkFacts) note(index int, id linkIdent, gone bool) {
	delete(f.byName, f.idents[index].name)
	delete(f.idents, index)
	if !gone && id.name != "" {
		f.idents[index], f.byName[id.name] = id, index
	}
}

// remember takes over which links were seen in the bridge before, and adds the present ones.
func (f *linkFacts) remember(before *linkFacts, bridge string) {
	for index, id := range f.idents {
		f.see(index, id, false, bridge)
		if before != nil && before.seen[index] {
			f.seen[index] = true
		}
	}
}

// see remembers a link that is in the bridge, until it is deleted.
func (f *linkFacts) see(index int, id linkIdent, gone bool, bridge string) {
	if gone {
		delete(f.seen, index)
	} else if master, there := f.byName[f.bridge(bridge)]; there && id.master == master {
		f.seen[index] = true
	}
}

// matters reports whether routes can go through a link.
func (f *linkFacts) matters(index int) bool {
	id, known := f.idents[index]
	return known && slices.ContainsFunc(f.list, func(l topology.Link) bool { return l.Name == id.name })
}

// ports counts a bridge's ports, and detached ports of pods.
func (f *linkFacts) ports(bridge string) int {
	master, there := f.byName[bridge]
	n := 0
	for index, id := range f.idents {
		if (there && id.master == master || f.pods[index].IsValid()) && id.name != trialPort {
			n++
		}
	}
	return n
}

// nameservers reads resolv.conf(5). If the file is missing and not needed, there are none.
func nameservers(path string, needed bool) ([]netip.Addr, error) {
	f, err := os.Open(path)
	switch {
	case errors.Is(err, os.ErrNotExist) && !needed:
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("reading nameservers: %w", err)
	}
	defer f.Close()
	var servers []netip.Addr
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 2 || fields[0] != "nameserver" {
			continue
		}
		if addr, err := netip.ParseAddr(fields[1]); err == nil {
			servers = append(servers, addr.WithZone("").Unmap())
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("reading nameservers: %w", err)
	}
	return servers, nil
}
