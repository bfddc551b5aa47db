package dataplane

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	rtnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Inspector looks at what is not ours in a network namespace, for people. It keeps
// nothing and changes nothing, but for what Ask has the kernel find out anew.
type Inspector struct {
	handle *rtnl.Handle
	nft    *nftables.Conn
}

// NewInspector looks from the network namespace of the thread that calls it.
func NewInspector() (*Inspector, error) {
	handle, err := rtnl.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("opening netlink: %w", err)
	}
	nft, err := nftables.New(nftables.AsLasting())
	if err != nil {
		handle.Close()
		return nil, fmt.Errorf("opening nftables: %w", err)
	}
	return &Inspector{handle, nft}, nil
}

// Close ends the inspection.
func (i *Inspector) Close() error {
	i.handle.Close()
	return i.nft.CloseLasting()
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
	// Drops tells that what no rule accepts is dropped: by the policy, or by a last rule.
	Drops bool
	// Rules is how many there are before that.
	Rules int
	// Legacy tells a chain of iptables-legacy, which nftables does not show.
	Legacy bool
}

func (c Chain) String() string {
	policy := "accept"
	if c.Drops {
		policy = "drop" // or a last rule that is one
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

// ForwardChains lists the base chains of hook forward.
func (i *Inspector) ForwardChains() ([]Chain, error) {
	chains, err := i.nft.ListChains()
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("listing chains: %w", err)
	}
	var found []Chain
	for _, c := range chains {
		family, routed := nftFamilies[c.Table.Family]
		if !routed || c.Hooknum == nil || *c.Hooknum != *nftables.ChainHookForward {
			continue
		}
		rules, err := i.nft.GetRules(c.Table, c)
		if err != nil {
			return nil, fmt.Errorf("listing the rules of %s: %w", c.Name, err)
		}
		chain := Chain{Family: family, Table: c.Table.Name, Name: c.Name, Rules: len(rules), Drops: c.Policy != nil && *c.Policy == nftables.ChainPolicyDrop}
		if last := slices.IndexFunc(rules, dropsAll); last >= 0 {
			chain.Rules, chain.Drops = last, true // what comes after it is never reached
		}
		found = append(found, chain)
	}
	return found, nil
}

// dropsAll tells a rule that drops or refuses whatever comes to it, as firewalld's last
// one does.
func dropsAll(r *nftables.Rule) bool {
	end := false
	for _, e := range r.Exprs {
		switch e := e.(type) {
		case *expr.Counter, *expr.Log:
		case *expr.Reject:
			end = true
		case *expr.Verdict:
			end = e.Kind == expr.VerdictDrop
		default:
			return false // it looks at the packet first
		}
	}
	return end
}

// Chains lists the names of all chains of nftables.
func (i *Inspector) Chains() ([]string, error) {
	chains, err := i.nft.ListChains()
	if err != nil {
		return nil, fmt.Errorf("listing chains: %w", err)
	}
	names := make([]string, 0, len(chains))
	for _, c := range chains {
		names = append(names, c.Name)
	}
	return names, nil
}
