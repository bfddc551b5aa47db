package dataplane

import (
	"errors"
	"fmt"
	"strings"

	"github.com/google/nftables"
	rtnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Inspector looks at what is not ours in a network namespace, for people. It keeps
// nothing and changes nothing, but for what Ask has the kernel find out anew.
type Inspector struct {
	handle    *rtnl.Handle
	namespace *namespace
	rtnetlink *socket
}

// NewInspector looks from the network namespace of the thread that calls it.
func NewInspector() (*Inspector, error) {
	handle, err := rtnl.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("opening netlink: %w", err)
	}
	namespace, err := openNamespace()
	if err != nil {
		handle.Close()
		return nil, err
	}
	return &Inspector{handle, namespace, newSocket(namespace, unix.NETLINK_ROUTE)}, nil
}

// askNFT calls f with a connection that opens a socket for each request: the library matches answers
// by their order, so on one socket a part of an answer that it left would be taken for the next.
func (i *Inspector) askNFT(f func(*nftables.Conn) error) error {
	return i.namespace.do(func() error {
		conn, err := nftables.New()
		if err != nil {
			return fmt.Errorf("opening nftables: %w", err)
		}
		return f(conn)
	})
}

// Close ends the inspection.
func (i *Inspector) Close() error {
	i.handle.Close()
	return errors.Join(i.rtnetlink.close(), i.namespace.close())
}

// Device is a network device of any kind.
type Device struct{ Name, Kind, Master string }

// Devices lists all there are.
func (i *Inspector) Devices() ([]Device, error) {
	links, err := retryDump(i.handle.LinkList)
	if err != nil {
		return nil, fmt.Errorf("listing links: %w", err)
	}
	names := make(map[int]string, len(links))
	for _, l := range links {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	devices := make([]Device, 0, len(links))
	for _, l := range links {
		devices = append(devices, Device{l.Attrs().Name, l.Type(), names[l.Attrs().MasterIndex]})
	}
	return devices, nil
}

// Chain is a base chain of nftables that packets on their way through this host pass:
// of hook forward. iptables-nft makes such chains too, in tables named filter.
type Chain struct {
	Family, Table, Name string
	// Drops tells that its policy is to drop.
	Drops bool
	// Rules is how many it has itself.
	Rules int
	// Fates are what becomes of the packets that were asked for, in their order.
	Fates []Fate
	// Legacy tells a chain of iptables-legacy, which nftables does not show.
	Legacy bool
}

func (c Chain) String() string {
	policy := "accept"
	if c.Drops {
		policy = "drop"
	}
	if c.Legacy {
		return fmt.Sprintf("%stables-legacy: chain %s (policy %s) with %d rules", c.Family, c.Name, strings.ToUpper(policy), c.Rules)
	}
	return fmt.Sprintf("chain %s %s %s { type filter hook forward; policy %s; } with %d rules", c.Family, c.Table, c.Name, policy, c.Rules)
}

// nftFamilies are those whose forward hook a pod's packets pass.
var nftFamilies = map[nftables.TableFamily]string{
	nftables.TableFamilyIPv4: "ip", nftables.TableFamilyIPv6: "ip6", nftables.TableFamilyINet: "inet",
}

// ForwardChains lists the base chains of hook forward, and what they do with packets.
func (i *Inspector) ForwardChains(packets []Packet) (found []Chain, err error) {
	err = i.askNFT(func(conn *nftables.Conn) error {
		chains, err := conn.ListChains()
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("listing chains: %w", err)
		}
		for _, c := range chains {
			family, routed := nftFamilies[c.Table.Family]
			if !routed || c.Hooknum == nil || *c.Hooknum != *nftables.ChainHookForward {
				continue
			}
			rules := map[string][]rule{}
			if err := (&ruleset{conn, c.Table, map[string]*elementSet{}}).rules(c.Name, rules); err != nil {
				return err
			}
			chain := Chain{Family: family, Table: c.Table.Name, Name: c.Name, Rules: len(rules[c.Name]), Drops: c.Policy != nil && *c.Policy == nftables.ChainPolicyDrop}
			for _, p := range packets {
				chain.Fates = append(chain.Fates, chain.fate(rules, c.Name, p))
			}
			found = append(found, chain)
		}
		return nil
	})
	return found, err
}

// fate lets pass what is of the other family.
func (c Chain) fate(rules map[string][]rule, base string, p Packet) Fate {
	if c.Family == "ip" && !p.From.Addr().Is4() || c.Family == "ip6" && p.From.Addr().Is4() {
		return Fate{Accepted: true}
	}
	return fate(rules, base, c.Drops, p)
}

// Chains lists the names of all chains of nftables.
func (i *Inspector) Chains() (names []string, err error) {
	err = i.askNFT(func(conn *nftables.Conn) error {
		chains, err := conn.ListChains()
		if err != nil {
			return fmt.Errorf("listing chains: %w", err)
		}
		for _, c := range chains {
			names = append(names, c.Name)
		}
		return nil
	})
	return names, err
}
