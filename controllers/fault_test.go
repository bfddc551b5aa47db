package controllers

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/plainroute/plainroute/pkg/plan"
	"github.com/plainroute/plainroute/pkg/topology"
)

type partFailure struct {
	error
	key plan.Key
}

func (p partFailure) FailedKey() plan.Key { return p.key }
func (p partFailure) Unwrap() error       { return p.error }

// What is said of an error fits where it comes from: the same number means one thing of a
// file and another of netlink.
func TestWordsFitTheCause(t *testing.T) {
	file := func(err error) error {
		return fmt.Errorf("writing: %w", &fs.PathError{Op: "open", Path: "/etc/cni/net.d", Err: err})
	}
	of := func(kind plan.Kind, err error) error { return partFailure{err, plan.Key{Kind: kind, Name: "it"}} }
	ofFile, ofKernel := "owner must let the agent write", "CAP_NET_ADMIN"
	for name, c := range map[string]struct {
		err    error
		reason topology.Reason
		words  string // one of those below, or nothing
	}{
		"an address, IPv6 off":            {of(plan.KindAddress, syscall.EACCES), topology.BridgeFailed, ""},
		"a device, IPv6 off":              {of(plan.KindDevice, syscall.EACCES), topology.BridgeFailed, ""},
		"a bridge, no right":              {of(plan.KindBridge, syscall.EPERM), topology.BridgeFailed, ofKernel},
		"a bridge, no kernel":             {of(plan.KindBridge, syscall.EOPNOTSUPP), topology.BridgeFailed, "module"},
		"a trial, no veth":                {&cniError{of(plan.KindCNI, syscall.EOPNOTSUPP)}, topology.BridgeFailed, "module"},
		"a trial, no right":               {&cniError{of(plan.KindCNI, syscall.EPERM)}, topology.BridgeFailed, ofKernel},
		"a trial, wrong MTU":              {&cniError{of(plan.KindCNI, syscall.EINVAL)}, topology.BridgeFailed, ""},
		"a device, no room in the kernel": {of(plan.KindDevice, syscall.ENOSPC), topology.BridgeFailed, ""},
		"a setting, no right":             {of(plan.KindSysctl, file(syscall.EACCES)), topology.SettingFailed, ofFile},
		"a setting, read-only":            {of(plan.KindSysctl, file(syscall.EROFS)), topology.SettingFailed, "mount it writable"},
		"the config, no right":            {&cniError{file(syscall.EACCES)}, topology.CNIFailed, ofFile},
		"the config, immutable":           {&cniError{file(syscall.EPERM)}, topology.CNIFailed, ofFile},
		"the config, disk full":           {&cniError{file(syscall.ENOSPC)}, topology.CNIFailed, "file system is full"},
		"the config's link, no right":     {&cniError{&os.LinkError{Op: "rename", Old: "a", New: "b", Err: syscall.EACCES}}, topology.CNIFailed, ofFile},
	} {
		p := ownFailure(c.err, topology.Options{})
		if p.Reason != c.reason || !p.Own {
			t.Errorf("%s: got %s, own %t", name, p.Reason, p.Own)
		}
		for _, words := range []string{ofFile, ofKernel, "module", "mount it writable", "file system is full"} {
			if got := strings.Contains(p.Detail, words); got != (words == c.words) {
				t.Errorf("%s: it says %q", name, p.Detail)
			}
		}
	}
	if p := ownFailure(errors.New("what"), topology.Options{}); p.Reason != topology.KernelFailed {
		t.Errorf("got %s of an error that names nothing", p.Reason)
	}
}
