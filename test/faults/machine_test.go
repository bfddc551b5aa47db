package faults

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/test/netlab"
	"github.com/plainroute/plainroute/test/nodelab"
)

const (
	uplink   = "eth0"
	bridge   = "plainroute0"
	conflist = "10-plainroute.conflist"
	// foreignTable is a routing table that is none of the agent's business.
	foreignTable = 77
)

// machine is a node with things of others on it.
type machine struct {
	*nodelab.Node
	// foreign are the objects that are not ours, as they were before the agent first started, and
	// ours our own, when all was well.
	foreign, ours state
}

// foreignRoutes are an administrator's, inside and outside the range of pods.
func (m *machine) foreignRoutes() []*netlink.Route {
	var routes []*netlink.Route
	for _, table := range []int{unix.RT_TABLE_MAIN, foreignTable} {
		for subnet, gateway := range map[string]netip.Addr{
			"10.244.255.0/24": netlab.Router4, "10.244.128.0/17": netlab.Router4, "172.30.0.0/16": netlab.Router4,
			"fd00:10:244:ff::/64": netlab.Router6, "fd00:172:30::/48": netlab.Router6,
		} {
			routes = append(routes, &netlink.Route{
				Dst: ipNet(netip.MustParsePrefix(subnet)), Gw: gateway.AsSlice(), Table: table, Protocol: unix.RTPROT_STATIC,
			})
		}
	}
	return routes
}

func ipNet(prefix netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: prefix.Addr().AsSlice(), Mask: net.CIDRMask(prefix.Bits(), prefix.Addr().BitLen())}
}

// plantForeign gives the node routes, an nftables table and files of others.
func (m *machine) plantForeign() error {
	for _, route := range m.foreignRoutes() {
		if err := m.Handle().RouteAdd(route); err != nil {
			return fmt.Errorf("adding %s: %w", route, err)
		}
	}
	if err := m.plantTable(); err != nil {
		return err
	}
	return m.plantFiles()
}

func (m *machine) plantTable() error {
	conn, err := m.NFT()
	if err != nil {
		return err
	}
	table := conn.AddTable(&nftables.Table{Name: "foreign", Family: nftables.TableFamilyINet})
	chain := conn.AddChain(&nftables.Chain{
		Name: "postrouting", Table: table, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource,
	})
	conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{1, 2, 3, 4}},
		&expr.Verdict{Kind: expr.VerdictReturn},
	}})
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("adding an nftables table: %w", err)
	}
	return nil
}

func (m *machine) plantFiles() error {
	for name, content := range map[string]string{
		"99-other.conflist": `{"cniVersion": "1.0.0", "name": "other", "plugins": [{"type": "ptp"}]}`,
		"README":            "Here lives the CNI config.\n",
	} {
		if err := os.WriteFile(filepath.Join(m.ConfDir, name), []byte(content), 0o640); err != nil {
			return fmt.Errorf("writing a file: %w", err)
		}
	}
	return nil
}

// dump lists one family's routes in all tables, again for as long as a change interrupts it.
func (m *machine) dump(family int) ([]netlink.Route, error) {
	for {
		routes, err := m.Handle().RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
		if err == nil {
			return routes, nil
		}
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			return nil, fmt.Errorf("listing routes of %s: %w", m.Name, err)
		}
	}
}

// foreignState is a picture of all objects that are not ours.
func (m *machine) foreignState() (state, error) {
	s := state{}
	err := s.addRoutes(m, func(route netlink.Route) bool {
		return route.Protocol != netlab.Protocol && route.Protocol != unix.RTPROT_KERNEL
	})
	if err != nil {
		return nil, err
	}
	conn, err := m.NFT()
	if err != nil {
		return nil, err
	}
	if err := s.addTables(conn, func(table string) bool { return table != "plainroute" }); err != nil {
		return nil, err
	}
	if err := s.addSysctls(m.Namespace, notOurs); err != nil {
		return nil, err
	}
	if err := s.addVXLAN(m, func(name string) bool { return !isTunnel(name) }, nil); err != nil {
		return nil, err
	}
	files, err := os.ReadDir(m.ConfDir)
	if err != nil {
		return nil, fmt.Errorf("listing the CNI folder: %w", err)
	}
	for _, file := range files {
		if file.Name() == conflist {
			continue
		}
		if err := s.addFile(filepath.Join(m.ConfDir, file.Name())); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// notOurs reports whether a setting must stay as it is. Exceptions are the settings of the agent,
// and those that the kernel changes with them: forwarding of every device, and IPv4's
// accept_redirects (Documentation/networking/ip-sysctl.rst, ip_forward), and accept_ra of the
// uplink; devices that come with pods; counters.
func notOurs(path string) bool {
	parts := strings.Split(path, "/")
	device, name := parts[len(parts)-2], parts[len(parts)-1]
	switch {
	case name == "ip_forward" || name == "forwarding" || name == "accept_redirects":
		return false
	case name == "accept_ra" && device == uplink:
		return false
	case strings.HasPrefix(name, "bridge-nf-call-") || strings.HasSuffix(name, "_count"):
		return false
	}
	perDevice := strings.Contains(path, "/conf/") || strings.Contains(path, "/neigh/")
	return !perDevice || slices.Contains([]string{"all", "default", "lo", uplink}, device)
}

// ownSettings are the settings without which pods' packets don't pass.
func ownSettings() []string {
	settings := []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding", "ipv6/conf/" + bridge + "/accept_ra", "ipv6/conf/" + bridge + "/disable_ipv6"}
	for _, family := range []string{"ipv4", "ipv6"} {
		for _, device := range []string{uplink, bridge} {
			settings = append(settings, family+"/conf/"+device+"/forwarding")
		}
	}
	return settings
}

// ownState is a picture of our objects that belong to the lab: nodes of other labs come and go.
func (m *machine) ownState(peer *machine) (state, error) {
	s := state{}
	subnets := slices.Concat(m.Subnets, peer.Subnets)
	err := s.addRoutes(m, func(route netlink.Route) bool {
		return route.Protocol == netlab.Protocol && slices.ContainsFunc(subnets, func(subnet netip.Prefix) bool {
			return route.Dst.String() == subnet.String()
		})
	})
	if err != nil {
		return nil, err
	}
	conn, err := m.NFT()
	if err != nil {
		return nil, err
	}
	if err := s.addTables(conn, func(table string) bool { return table == "plainroute" }); err != nil {
		return nil, err
	}
	sets, err := conn.GetSets(ourTable())
	if err != nil {
		return nil, fmt.Errorf("listing nftables' sets: %w", err)
	}
	for _, set := range sets {
		if err := s.addElements(conn, set, peer); err != nil {
			return nil, err
		}
	}
	if err := s.addSettings(m.Namespace, ownSettings()); err != nil {
		return nil, err
	}
	if err := s.addDevices(m); err != nil {
		return nil, err
	}
	if err := s.addVXLAN(m, isTunnel, peer); err != nil {
		return nil, err
	}
	s["CNI config"] = readConfig(filepath.Join(m.ConfDir, conflist))
	return s, s.addBridge(m)
}

// readConfig is where the symlink points to and what is there, or why not.
func readConfig(path string) string {
	target, err := os.Readlink(path)
	if err != nil {
		return err.Error()
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return target + "\n" + string(content)
}

// addSettings adds settings by their paths.
func (s state) addSettings(n *netlab.Namespace, paths []string) error {
	return n.Do(func() error {
		for _, path := range paths {
			value, err := os.ReadFile("/proc/sys/net/" + path)
			if err != nil {
				return fmt.Errorf("reading a setting: %w", err)
			}
			s["setting "+path] = strings.TrimSpace(string(value))
		}
		return nil
	})
}

// addBridge adds the global addresses of the pods' bridge.
func (s state) addBridge(m *machine) error {
	link, err := m.Handle().LinkByName(bridge)
	if err != nil {
		return fmt.Errorf("finding the bridge: %w", err)
	}
	addresses, err := m.Handle().AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("listing the bridge's addresses: %w", err)
	}
	for _, address := range addresses {
		if address.Scope == unix.RT_SCOPE_UNIVERSE {
			s["bridge's address "+address.IPNet.String()] = ""
		}
	}
	return nil
}

// checkLitter fails if the agent left a file behind that is only there while another is written.
func (m *machine) checkLitter() error {
	var litter []error
	for _, folder := range []string{m.ConfDir, m.RunDir} {
		files, err := os.ReadDir(folder)
		if err != nil {
			return fmt.Errorf("listing a folder: %w", err)
		}
		for _, file := range files {
			if strings.HasPrefix(file.Name(), ".") || strings.Contains(file.Name(), "plainroute-new") {
				litter = append(litter, fmt.Errorf("the agent left %s in %s", file.Name(), folder))
			}
		}
	}
	return errors.Join(litter...)
}
