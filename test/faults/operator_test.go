package faults

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/test/netlab"
)

// These methods act on a node as people and other programs do, and read what they read.

func (l *lab) link(device string) netlink.Link {
	l.t.Helper()
	link, err := l.node.Handle().LinkByName(device)
	l.must(err)
	return link
}

func (l *lab) linkDown() { l.must(l.node.Handle().LinkSetDown(l.link(uplink))) }

func (l *lab) linkUp() { l.must(l.node.Handle().LinkSetUp(l.link(uplink))) }

// uplinkAddress is one of the node's, with the LAN's prefix length.
func (l *lab) uplinkAddress(of netip.Addr) *netlink.Addr {
	bits := 24
	if of.Is6() {
		bits = 64
	}
	address := &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(of, bits))}
	if of.Is6() {
		address.Flags = unix.IFA_F_NODAD
	}
	return address
}

func (l *lab) removeAddress(address netip.Addr) {
	l.t.Helper()
	l.must(l.node.Handle().AddrDel(l.link(uplink), l.uplinkAddress(address)))
}

// giveAddress gives the uplink an address, which may be there already.
func (l *lab) giveAddress(address netip.Addr) {
	l.t.Helper()
	l.must(l.node.Handle().AddrReplace(l.link(uplink), l.uplinkAddress(address)))
}

// removeGateway takes from the bridge its address in a pod subnet.
func (l *lab) removeGateway(subnet netip.Prefix) {
	l.t.Helper()
	gateway := netip.PrefixFrom(subnet.Addr().Next(), subnet.Bits())
	l.must(l.node.Handle().AddrDel(l.link(bridge), &netlink.Addr{IPNet: ipNet(gateway)}))
}

// save is `ip route save`: all routes that are not ours, of the main and the foreign table.
func (l *lab) save() []netlink.Route {
	l.t.Helper()
	var saved []netlink.Route
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		routes, err := l.node.dump(family)
		l.must(err)
		saved = append(saved, slices.DeleteFunc(routes, func(route netlink.Route) bool {
			elsewhere := route.Table != unix.RT_TABLE_MAIN && route.Table != foreignTable
			return elsewhere || route.Protocol == netlab.Protocol
		})...)
	}
	return saved
}

// restore is `ip route restore`: it adds the missing routes of saved, those first that other routes need as gateways.
func (l *lab) restore(saved []netlink.Route) {
	l.t.Helper()
	for _, withGateway := range []bool{false, true} {
		for _, route := range saved {
			if (route.Gw != nil) != withGateway {
				continue
			}
			if err := l.node.Handle().RouteAdd(&route); err != nil && !errors.Is(err, unix.EEXIST) {
				l.t.Fatalf("restoring %s: %v", route, err)
			}
		}
	}
}

// flush deletes the main table's routes that want accepts.
func (l *lab) flush(want func(netlink.Route) bool) {
	l.t.Helper()
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		routes, err := l.node.dump(family)
		l.must(err)
		for _, route := range routes {
			if route.Table != unix.RT_TABLE_MAIN || !want(route) {
				continue
			}
			// A route may have gone with the one before.
			if err := l.node.Handle().RouteDel(&route); err != nil && !errors.Is(err, unix.ESRCH) {
				l.t.Fatalf("deleting %s: %v", route, err)
			}
		}
	}
}

func isOurs(route netlink.Route) bool { return route.Protocol == netlab.Protocol }

func isAny(netlink.Route) bool { return true }

// checkProblem returns an error if the agent's /status lacks a Problem of a reason whose detail
// holds a text.
func (l *lab) checkProblem(reason problem.Reason, detail string) error {
	problems, err := l.node.problems(l.t.Context())
	if err != nil {
		return err
	}
	for _, problem := range problems {
		if problem.Reason == reason && strings.Contains(problem.Message, detail) {
			return nil
		}
	}
	return fmt.Errorf("/status has no %s about %q: %v", reason, detail, problems)
}

// checkNoProblem returns an error if the agent's /status has a Problem of a reason.
func (l *lab) checkNoProblem(reason problem.Reason) error {
	problems, err := l.node.problems(l.t.Context())
	if err != nil {
		return err
	}
	for _, problem := range problems {
		if problem.Reason == reason {
			return fmt.Errorf("/status has the problem %s", problem)
		}
	}
	return nil
}
