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
	namespace, err := openNamespace()
	if err != nil {
		return nil, err
	}
	handle, err := rtnl.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("opening netlink: %w", err), namespace.close())
	}
	return &Inspector{handle, namespace, newSocket(namespace, unix.NETLINK_ROUTE)}, nil
}

// eachChain calls f with all chains of nftables. The connection opens a socket for each request: the library matches
// answers by their order, so on one socket a part of an answer that it left would be taken for the next.
func (i *Inspector) eachChain(f func(*nftables.Conn, *nftables.Chain) error) error {
	return i.namespace.do(func() error {
		conn := &nftables.Conn{}
		chains, err := conn.ListChains()
		if err != nil {
			return fmt.Errorf("listing chains: %w", err)
		}
		for _, c := range chains {
			if err := f(conn, c); err != nil {
				return err
			}
		}
		return nil
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
	links, names, err := i.links()
	if err != nil {
		return nil, err
	}
	var devices []Device
	for _, l := range links {
		devices = append(devices, Device{l.Attrs().Name, l.Type(), names[l.Attrs().MasterIndex]})
	}
	return devices, nil
}

// links returns all devices, and their names by index.
func (i *Inspector) links() ([]rtnl.Link, map[int]string, error) {
	links, err := retryDump(i.handle.LinkList)
	if err != nil {
		return nil, nil, fmt.Errorf("listing links: %w", err)
	}
	names := map[int]string{}
	for _, l := range links {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	return links, names, nil
}

// Chain is a base chain of nftables that packets on their way through this host pass and that
// filters: of hook forward, or before or behind that. iptables-nft makes such chains too, in tables named
// filter, raw and mangle.
type Chain struct {
	Family, Table, Name string
	// Hook is forward, prerouting or postrouting.
	Hook string
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
	return fmt.Sprintf("chain %s %s %s { type filter hook %s; policy %s; } with %d rules", c.Family, c.Table, c.Name, c.Hook, policy, c.Rules)
}

// nftFamilies are those whose forward hook a pod's packets pass.
var nftFamilies = map[nftables.TableFamily]string{
	nftables.TableFamilyIPv4: "ip", nftables.TableFamilyIPv6: "ip6", nftables.TableFamilyINet: "inet",
}

// hookNames are those of what a forwarded packet passes.
var hookNames = map[nftables.ChainHook]string{
	*nftables.ChainHookPrerouting: "prerouting", *nftables.ChainHookForward: HookForward, *nftables.ChainHookPostrouting: "postrouting",
}

// HookForward is the hook in which firewalls look at what is forwarded.
const HookForward = "forward"

// ForwardChains lists the base chains that forwarded packets pass, and what they do with packets.
func (i *Inspector) ForwardChains(packets []Packet) (found []Chain, err error) {
	err = i.eachChain(func(conn *nftables.Conn, c *nftables.Chain) error {
		family, routed := nftFamilies[c.Table.Family]
		if !routed || c.Hooknum == nil || hookNames[*c.Hooknum] == "" || c.Type != nftables.ChainTypeFilter {
			return nil
		}
		set := ruleset{conn, c.Table, map[string][]rule{"": nil}, map[string]elementSet{}}
		chain := Chain{Family: family, Table: c.Table.Name, Name: c.Name, Hook: hookNames[*c.Hooknum], Drops: *c.Policy == nftables.ChainPolicyDrop}
		if err := set.read(c.Name); err != nil {
			return err
		}
		found = append(found, chain.with(set.chains, packets))
		return nil
	})
	return found, err
}

// with returns the chain with its rules, and the fates of packets. Those of the other family don't come by.
func (c Chain) with(chains map[string][]rule, packets []Packet) Chain {
	c.Rules = len(chains[c.Name])
	for _, p := range packets {
		if c.Hook == hookNames[*nftables.ChainHookPrerouting] {
			p.Out = "" // the way is not known yet
		}
		if c.Family == "ip" && !p.From.Addr().Is4() || c.Family == "ip6" && p.From.Addr().Is4() {
			c.Fates = append(c.Fates, Fate{Accepted: true})
		} else {
			c.Fates = append(c.Fates, fate(chains, c.Name, c.Drops, p))
		}
	}
	return c
}

// Chains lists the names of all chains of nftables.
func (i *Inspector) Chains() (names []string, err error) {
	err = i.eachChain(func(_ *nftables.Conn, c *nftables.Chain) error {
		names = append(names, c.Name)
		return nil
	})
	return names, err
}
