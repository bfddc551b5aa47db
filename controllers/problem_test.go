package controllers

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/plainroute/plainroute/pkg/plan"
	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/topology"
)

type partFailure struct {
	error
	key plan.Key
}

func (p partFailure) FailedKey() plan.Key { return p.key }
func (p partFailure) Unwrap() error       { return p.error }

// The remediation of an error depends on its source: the same errno has different causes for files
// and for netlink.
func TestWordsFitTheCause(t *testing.T) {
	file := func(err error) error {
		return fmt.Errorf("writing: %w", &fs.PathError{Op: "open", Path: "/etc/cni/net.d", Err: err})
	}
	of := func(kind plan.Kind, err error) error { return partFailure{err, plan.Key{Kind: kind, Name: "it"}} }
	ofFile, ofKernel, mount := "permission to write", "CAP_NET_ADMIN", "Mount it writable"
	for name, c := range map[string]struct {
		err    error
		reason problem.Reason
		words  string // one of those below, or nothing
	}{
		"an address, IPv6 off":            {of(plan.KindAddress, syscall.EACCES), problem.BridgeFailed, ""},
		"a device, IPv6 off":              {of(plan.KindDevice, syscall.EACCES), problem.BridgeFailed, ""},
		"a bridge, no right":              {of(plan.KindBridge, syscall.EPERM), problem.BridgeFailed, ofKernel},
		"a bridge, no kernel":             {of(plan.KindBridge, syscall.EOPNOTSUPP), problem.BridgeFailed, "module"},
		"a trial, no veth":                {&stepError{configKey, of(plan.KindCNI, syscall.EOPNOTSUPP)}, problem.BridgeFailed, "module"},
		"a trial, no right":               {&stepError{configKey, of(plan.KindCNI, syscall.EPERM)}, problem.BridgeFailed, ofKernel},
		"a trial, wrong MTU":              {&stepError{configKey, of(plan.KindCNI, syscall.EINVAL)}, problem.BridgeFailed, ""},
		"a device, no room in the kernel": {of(plan.KindDevice, syscall.ENOSPC), problem.BridgeFailed, ""},
		"a setting, no right":             {of(plan.KindSysctl, file(syscall.EACCES)), problem.SettingFailed, ofFile},
		"a setting, read-only":            {of(plan.KindSysctl, file(syscall.EROFS)), problem.SettingFailed, mount},
		"the config, no right":            {&stepError{configKey, file(syscall.EACCES)}, problem.CNIFailed, ofFile},
		"the config, immutable":           {&stepError{configKey, file(syscall.EPERM)}, problem.CNIFailed, ofFile},
		"the config, disk full":           {&stepError{configKey, file(syscall.ENOSPC)}, problem.CNIFailed, "file system is full"},
		"no right to look":                {&stepError{hostKey, syscall.EPERM}, problem.KernelFailed, ofKernel},
		"the config is a folder":          {&stepError{configKey, file(syscall.EISDIR)}, problem.CNIFailed, ""},
		"the config's link, no right":     {&stepError{configKey, &os.LinkError{Op: "rename", Old: "a", New: "b", Err: syscall.EACCES}}, problem.CNIFailed, ofFile},
	} {
		p := problemsOf(c.err, nil, topology.Options{})[0]
		if p.Reason != c.reason || !p.BlocksReady || !strings.Contains(p.Message, c.err.Error()) {
			t.Errorf("%s: got %s, own %t", name, p.Reason, p.BlocksReady)
		}
		for _, words := range []string{ofFile, ofKernel, "module", mount, "file system is full"} {
			if got := strings.Contains(p.Remediation, words); got != (words == c.words) {
				t.Errorf("%s: it says %q", name, p.Remediation)
			}
		}
	}
	if p := problemsOf(errors.New("what"), nil, topology.Options{})[0]; p.Reason != problem.KernelFailed {
		t.Errorf("got %s of an error that names nothing", p.Reason)
	}
}

// A route that the kernel refuses is of the Node that it leads to, and IPv6 that is off on a device is named.
func TestRouteFailuresAreOfTheirNodes(t *testing.T) {
	prefix, addr := netip.MustParsePrefix, netip.MustParseAddr
	v4, v6 := route("10.244.2.0/24", "192.168.1.12"), route("fd00:10:244:2::/64", "fd00::12")
	node := func(name string, subnet netip.Prefix, a netip.Addr) *topology.Node {
		return &topology.Node{Name: name, PodCIDRs: []netip.Prefix{subnet}, Addrs: []netip.Addr{a}}
	}
	nodes := []*topology.Node{
		node("subnet alone", v4.Dst, addr("192.168.1.13")), node("address alone", prefix("10.244.3.0/24"), v4.Via),
		node("node2", v4.Dst, v4.Via), node("node6", v6.Dst, v6.Via),
	}
	for _, c := range []struct {
		route  topology.Route
		err    syscall.Errno
		nodes  []*topology.Node
		of     string
		advice string
	}{
		{v4, syscall.EACCES, nodes, "node2", ""},
		{v4, syscall.EINVAL, nodes[:2], "", ""},
		{v6, syscall.EINVAL, nodes, "node6", ""},
		{v6, syscall.EACCES, nodes, "node6", "IPv6 is switched off on that device: set net/ipv6/conf/eth0/disable_ipv6 to 0."},
	} {
		err := &routeError{c.route, c.err}
		got := problemsOf(err, c.nodes, topology.Options{})
		want := problem.Problem{Subject: problem.Subject{Node: c.of, Subnet: c.route.Dst}, Reason: problem.RouteFailed, Message: err.Error(), Remediation: c.advice}
		if len(got) != 1 || got[0] != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}
}

// The error names changes that were accepted and are missing, without those that were refused and
// removals.
func TestWhatIsNotHeldIsNamed(t *testing.T) {
	r := route("10.244.2.0/24", "192.168.1.12")
	peer, conf := plan.Route{Route: r}, plan.Config{CNI: &topology.CNI{}}
	for _, c := range []struct {
		rest plan.Changes
		err  error
		want string // empty: nothing
	}{
		{plan.Changes{}, nil, ""},
		{plan.Of(plan.Add, conf).With(plan.Of(plan.Delete, peer)...), nil, ""},
		{plan.Of(plan.Add, peer), &routeError{r, syscall.EINVAL}, ""},
		{plan.Of(plan.Add, peer, conf), nil, "(route 10.244.2.0/24)"},
		{plan.Of(plan.Replace, plan.Sysctl{Path: "a/b"}, plan.Table{Masquerade: &topology.Masquerade{}}, peer), nil, "(sysctl a/b, and 2 more)"},
	} {
		if err := verify(c.rest, c.err); (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("it says %v, want %q", err, c.want)
		}
	}
}
