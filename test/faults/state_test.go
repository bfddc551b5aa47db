package faults

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/topology"
	"github.com/plainroute/plainroute/test/netlab"
)

// state is a picture of things by name; it has all attributes of each.
type state map[string]string

// compare returns what is missing, new or different now.
func (s state) compare(now state) error {
	var differences []error
	for _, name := range slices.Sorted(maps.Keys(s)) {
		if value, there := now[name]; !there {
			differences = append(differences, fmt.Errorf("%s is gone: %s", name, s[name]))
		} else if value != s[name] {
			differences = append(differences, fmt.Errorf("%s was %q and is %q", name, s[name], value))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(now)) {
		if _, there := s[name]; !there {
			differences = append(differences, fmt.Errorf("%s is new: %s", name, now[name]))
		}
	}
	return errors.Join(differences...)
}

// addRoutes adds the routes of both families, of all tables, that keep accepts. Those into a tunnel of ours have its
// name: one that was made again has another index.
func (s state) addRoutes(m *machine, keep func(netlink.Route) bool) error {
	tunnels := map[int]string{}
	for _, name := range []string{topology.Tunnel4, topology.Tunnel6} {
		if link, err := m.Handle().LinkByName(name); err == nil {
			tunnels[link.Attrs().Index] = name + " "
		}
	}
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		routes, err := m.dump(family)
		if err != nil {
			return err
		}
		for _, route := range routes {
			if !keep(route) {
				continue
			}
			tunnel := tunnels[route.LinkIndex]
			if tunnel != "" {
				route.LinkIndex = 0
			}
			text, err := json.Marshal(route)
			if err != nil {
				return fmt.Errorf("describing a route: %w", err)
			}
			s["route "+tunnel+string(text)] = ""
		}
	}
	return nil
}

// addTables adds chains and rules of the nftables tables that keep accepts.
func (s state) addTables(conn *nftables.Conn, keep func(name string) bool) error {
	chains, err := conn.ListChains()
	if err != nil {
		return fmt.Errorf("listing nftables' chains: %w", err)
	}
	for _, chain := range chains {
		if !keep(chain.Table.Name) {
			continue
		}
		rules, err := conn.GetRules(chain.Table, chain)
		if err != nil {
			return fmt.Errorf("listing nftables' rules: %w", err)
		}
		var text strings.Builder
		for _, rule := range rules {
			for _, part := range rule.Exprs {
				fmt.Fprintf(&text, "%T%+v ", part, part)
			}
			text.WriteString("; ")
		}
		s[fmt.Sprintf("chain %s of table %s", chain.Name, chain.Table.Name)] = text.String()
	}
	return nil
}

// addElements adds which of a peer's addresses an nftables set of ours holds.
func (s state) addElements(conn *nftables.Conn, set *nftables.Set, peer *machine) error {
	elements, err := conn.GetSetElements(set)
	if err != nil {
		return fmt.Errorf("listing the elements of %s: %w", set.Name, err)
	}
	for _, element := range elements {
		for _, address := range peer.Addrs() {
			if string(element.Key) == string(address.AsSlice()) {
				s[fmt.Sprintf("%s in set %s", address, set.Name)] = ""
			}
		}
	}
	return nil
}

// addFile adds all attributes of a file except its access time.
func (s state) addFile(path string) error {
	info, err := os.Lstat(path)
	if err != nil {
		return fmt.Errorf("looking at a file: %w", err)
	}
	content := "no file"
	if info.Mode().IsRegular() {
		bytes, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("reading a file: %w", err)
		}
		content = string(bytes)
	}
	s["file "+path] = fmt.Sprintf("%s %s %s", info.Mode(), info.ModTime(), content)
	return nil
}

// addSysctls adds the node's settings that keep accepts.
func (s state) addSysctls(n *netlab.Namespace, keep func(path string) bool) error {
	const root = "/proc/sys/net"
	return n.Do(func() error {
		return filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() || !keep(path) {
				return err
			}
			// Some can't be read: those that are commands, and those that have no value yet.
			if value, err := os.ReadFile(path); err == nil {
				s["setting "+path] = strings.TrimSpace(string(value))
			}
			return nil
		})
	})
}
