package netlab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Protocol is the agent's mark on a route (see pkg/topology); repeated here, so that a changed mark is noticed.
const Protocol = 112

// Routes returns the output of `ip -4 route show proto 112` and then `ip -6 …` in the namespace,
// from ip itself where the machine has it.
func (n *Namespace) Routes(ctx context.Context) (string, error) {
	if _, err := exec.LookPath("ip"); err != nil {
		return n.renderRoutes()
	}
	var text strings.Builder
	for _, family := range []string{"-4", "-6"} {
		command := exec.CommandContext(ctx, "ip", family, "route", "show", "proto", fmt.Sprint(Protocol))
		var output []byte
		err := n.Do(func() (err error) {
			output, err = command.CombinedOutput()
			return err
		})
		if err != nil {
			return "", fmt.Errorf("running %q in %s: %w: %s", command, n.Name, err, output)
		}
		for line := range strings.Lines(string(output)) {
			text.WriteString(strings.TrimRight(line, " \n") + "\n")
		}
	}
	return text.String(), nil
}

// renderRoutes writes the routes of the agent's protocol the way ip does.
func (n *Namespace) renderRoutes() (string, error) {
	routes, err := n.list(unix.RT_TABLE_MAIN, func(route netlink.Route) bool { return route.Protocol == Protocol })
	if err != nil {
		return "", err
	}
	var text strings.Builder
	for _, route := range routes {
		line, err := n.renderRoute(route)
		if err != nil {
			return "", err
		}
		text.WriteString(line + "\n")
	}
	return text.String(), nil
}

func (n *Namespace) renderRoute(route netlink.Route) (string, error) {
	line := route.Dst.String()
	if route.Type == unix.RTN_UNREACHABLE {
		line = "unreachable " + line
	}
	if route.Gw != nil {
		line += " via " + route.Gw.String()
	}
	if route.LinkIndex != 0 {
		link, err := n.link.LinkByIndex(route.LinkIndex)
		if err != nil {
			return "", fmt.Errorf("finding device %d in %s: %w", route.LinkIndex, n.Name, err)
		}
		line += " dev " + link.Attrs().Name
	}
	if route.Src != nil {
		line += " src " + route.Src.String()
	}
	line += fmt.Sprintf(" metric %d", route.Priority)
	if route.Family == unix.AF_INET6 {
		line += " pref medium"
	}
	return line, nil
}

// list returns the routes of a table that keep accepts, IPv4 first; RT_TABLE_UNSPEC: of all tables.
func (n *Namespace) list(table int, keep func(netlink.Route) bool) ([]netlink.Route, error) {
	var kept []netlink.Route
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		routes, err := n.dump(family, table)
		if err != nil {
			return nil, err
		}
		kept = append(kept, slices.DeleteFunc(routes, func(route netlink.Route) bool { return !keep(route) })...)
	}
	return kept, nil
}

// dump lists one family's routes, again for as long as a change interrupts it.
func (n *Namespace) dump(family, table int) ([]netlink.Route, error) {
	for range 20 {
		routes, err := n.link.RouteListFiltered(family, &netlink.Route{Table: table}, netlink.RT_FILTER_TABLE)
		if err == nil {
			return routes, nil
		}
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			return nil, fmt.Errorf("listing the routes of %s: %w", n.Name, err)
		}
	}
	return nil, fmt.Errorf("listing the routes of %s: interrupted by changes 20 times", n.Name)
}

// ForeignRoutes describes every route that neither the agent nor the kernel itself made, a line each, sorted: what has
// to be the same before and after anything that the agent does.
func (n *Namespace) ForeignRoutes() ([]string, error) {
	routes, err := n.list(unix.RT_TABLE_MAIN, func(route netlink.Route) bool {
		return route.Protocol != Protocol && route.Protocol != unix.RTPROT_KERNEL
	})
	if err != nil {
		return nil, err
	}
	var lines []string
	for _, route := range routes {
		line, err := n.renderRoute(route)
		if err != nil {
			return nil, err
		}
		lines = append(lines, fmt.Sprintf("%s proto %d", line, route.Protocol))
	}
	slices.Sort(lines)
	return lines, nil
}

// DeleteRoute takes the agent's route to a subnet away, as a person with `ip route del` would.
func (n *Namespace) DeleteRoute(to netip.Prefix) error {
	routes, err := n.ownRoutes(to)
	if err != nil {
		return err
	}
	if len(routes) != 1 {
		return fmt.Errorf("deleting the route to %s in %s: there are %d", to, n.Name, len(routes))
	}
	if err := n.link.RouteDel(&routes[0]); err != nil {
		return fmt.Errorf("deleting the route to %s in %s: %w", to, n.Name, err)
	}
	return nil
}

// ownRoutes are the agent's routes to a subnet, of all tables.
func (n *Namespace) ownRoutes(to netip.Prefix) ([]netlink.Route, error) {
	return n.list(unix.RT_TABLE_UNSPEC, func(route netlink.Route) bool {
		return route.Protocol == Protocol && route.Dst.String() == to.String()
	})
}

// RouteDevice is the device of the agent's route to a subnet, or "" if there is none.
func (n *Namespace) RouteDevice(to netip.Prefix) (string, error) {
	routes, err := n.ownRoutes(to)
	if err != nil || len(routes) == 0 {
		return "", err
	}
	link, err := n.link.LinkByIndex(routes[0].LinkIndex)
	if err != nil {
		return "", fmt.Errorf("finding the device of the route to %s in %s: %w", to, n.Name, err)
	}
	return link.Attrs().Name, nil
}

// LeadsTo returns an error unless the agent's route to a subnet leads to a device.
func (n *Namespace) LeadsTo(to netip.Prefix, device string) error {
	got, err := n.RouteDevice(to)
	if err == nil && got != device {
		err = fmt.Errorf("the route to %s in %s leads to %q; want %q", to, n.Name, got, device)
	}
	return err
}
