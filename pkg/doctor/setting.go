package doctor

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/topology"
)

// netAdmin is CAP_NET_ADMIN of linux/capability.h.
const netAdmin = 12

// capabilities reads this process's capabilities, which in the agent's pod are those of the agent.
func capabilities(context.Context, *Target) []problem.Problem {
	effective, err := effectiveCapabilities("/proc/thread-self/status")
	switch {
	case err != nil:
		return Skip(err.Error(), "")
	case effective&(1<<netAdmin) != 0:
		return nil
	}
	return []problem.Problem{Fail("this process may not change routes", fmt.Sprintf("CapEff is %016x, without CAP_NET_ADMIN", effective),
		"give the agent's container the capability NET_ADMIN (the manifests do); on a host, run this as root")}
}

func effectiveCapabilities(path string) (uint64, error) {
	file, err := os.Open(path)
	if err != nil {
		return 0, fmt.Errorf("reading capabilities: %w", err)
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		if value, ok := strings.CutPrefix(lines.Text(), "CapEff:"); ok {
			return strconv.ParseUint(strings.TrimSpace(value), 16, 64)
		}
	}
	return 0, errors.New("reading capabilities: there is no line CapEff")
}

// forwarding reads the settings that make this host a router: the one of all, and those of each
// device that pods' packets pass, because writing 1 to a global setting that is 1 changes no
// device.
func forwarding(_ context.Context, t *Target) []problem.Problem {
	var paths []string
	for _, family := range t.families() {
		if family == 6 { // its setting for all counts alone (ip-sysctl.rst, conf/all/forwarding)
			paths = append(paths, topology.SysctlForward6)
			continue
		}
		paths = append(paths, topology.SysctlForward4)
		for _, dev := range t.devices() {
			paths = append(paths, topology.ConfSysctl(4, dev, "forwarding"))
		}
	}
	var found []problem.Problem
	for _, path := range paths {
		value, err := t.Setting(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			found = append(found, Skip("reading "+path+": "+err.Error(), "")...)
		case value == "0":
			found = append(found, Fail("the kernel does not forward packets, so pods reach nothing beyond this node", path+" is 0",
				"the agent sets it; if it does not stay 1, find what resets it (sysctl.d, a firewall's manager): `sysctl -w "+path+"=1`"))
		}
	}
	return found
}

// devices returns the devices that pods' packets pass.
func (t *Target) devices() []string {
	var all []string
	if t.Report != nil {
		for _, u := range t.Report.Host.Uplinks {
			all = append(all, u.Name)
		}
	}
	if t.State.Bridge != "" {
		all = append(all, t.State.Bridge)
	}
	return all
}

// families returns the families of the pods' addresses, IPv4 if they are unknown.
func (t *Target) families() []int {
	var families []int
	for _, s := range t.ownSubnets() {
		family := 6
		if s.Addr().Is4() {
			family = 4
		}
		if !slices.Contains(families, family) {
			families = append(families, family)
		}
	}
	if len(families) == 0 {
		return []int{4}
	}
	return families
}

// bridgeNetfilter looks whether packets between pods of one node pass the firewall, where
// kube-proxy translates the addresses of Services back.
func bridgeNetfilter(_ context.Context, t *Target) []problem.Problem {
	var paths []string
	for _, family := range t.families() {
		paths = append(paths, map[int]string{4: topology.SysctlBridgeNF4, 6: topology.SysctlBridgeNF6}[family])
	}
	var found []problem.Problem
	for _, path := range paths {
		value, err := t.Setting(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return []problem.Problem{Fail("the kernel module br_netfilter is not loaded, so a Service times out if its pod is on the client's node", path+" does not exist",
				"`modprobe br_netfilter`, and for the next boot: `echo br_netfilter >/etc/modules-load.d/plainroute.conf`")}
		case err != nil:
			return Skip("reading "+path+": "+err.Error(), "")
		case value == "0":
			found = append(found, Fail("bridged packets pass no firewall, so a Service times out if its pod is on the client's node", path+" is 0",
				"the agent sets it; if it does not stay 1, find what resets it: `sysctl -w "+path+"=1`"))
		}
	}
	return found
}
