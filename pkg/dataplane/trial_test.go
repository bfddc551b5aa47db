package dataplane

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	rtnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/plan"
	"github.com/plainroute/plainroute/pkg/topology"
	"github.com/plainroute/plainroute/test/seccomp"
)

// noTrial fails the test if a device of a trial is left.
func (m *machine) noTrial() {
	m.t.Helper()
	for _, name := range []string{trialPort, trialPod} {
		if _, err := m.nl.LinkByName(name); !errors.As(err, new(rtnl.LinkNotFoundError)) {
			m.t.Errorf("%s is left: %v", name, err)
		}
	}
}

// withoutConfig is a machine that lacks nothing but the CNI config, and returns the change
// that writes it.
func (m *machine) withoutConfig() plan.Changes {
	m.t.Helper()
	m.settle(nodes(2))
	m.must(m.cfg.CNI.Remove())
	m.tried = trial{}
	m.Forget()
	c := m.diff(nodes(2))
	if !c.Has(plan.KindCNI) || !c.Except(plan.KindCNI).Empty() {
		m.t.Fatalf("without the config the changes are %+v", c)
	}
	return c
}

// configIn is the config that Changes write.
func configIn(c plan.Changes) *topology.CNI { return plan.Objects[plan.Config](c, plan.Add)[0].CNI }

// A config with which the kernel refuses pods' ports is not written, and the error names the
// refused request.
func TestConfigWithoutAPortIsNotWritten(t *testing.T) {
	for name, c := range map[string]struct {
		disturb func(*machine, *topology.CNI)
		mend    func(*machine, *topology.CNI)
		words   string
		err     error
	}{
		"MTU too large": {
			func(_ *machine, conf *topology.CNI) { conf.MTU = 65536 },
			func(_ *machine, conf *topology.CNI) { conf.MTU = 65535 }, "an MTU of 65536", unix.EINVAL,
		},
		"MTU too small": {
			func(_ *machine, conf *topology.CNI) { conf.MTU = 67 },
			func(_ *machine, conf *topology.CNI) { conf.MTU = 68 }, "an MTU of 67", unix.EINVAL,
		},
		"bridge full": {fillBridge, emptyBridge, "putting a veth device into " + topology.Bridge, unix.EXFULL},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			change := m.withoutConfig()
			c.disturb(m, configIn(change))
			err := m.Apply(context.Background(), change)
			var failed *PartError
			if !errors.Is(err, c.err) || !strings.Contains(err.Error(), c.words) || !errors.As(err, &failed) || failed.Key.Kind != plan.KindCNI {
				t.Errorf("got %v", err)
			}
			m.noTrial()
			if m.Config() != nil {
				t.Error("the config was written")
			}
			c.mend(m, configIn(change))
			m.must(m.Apply(context.Background(), change))
			m.noTrial()
			if m.Config() == nil {
				t.Error("the config was not written")
			}
		})
	}
}

// mostPorts is BR_MAX_PORTS of net/bridge/br_private.h, less the one that is never given.
const mostPorts = 1<<10 - 1

// fillBridge makes both ends of each pair ports, which stay down.
func fillBridge(m *machine, _ *topology.CNI) {
	bridge := m.link(topology.Bridge)
	for n := range (mostPorts + 1) / 2 {
		a, b := fmt.Sprintf("full%d", n), fmt.Sprintf("more%d", n)
		m.must(m.nl.LinkAdd(&rtnl.Veth{LinkAttrs: rtnl.LinkAttrs{Name: a}, PeerName: b}))
		m.must(m.nl.LinkSetMaster(m.link(a), bridge))
		if err := m.nl.LinkSetMaster(m.link(b), bridge); err != nil && n < mostPorts/2 {
			m.t.Fatal(err)
		}
	}
}

// emptyBridge makes room.
func emptyBridge(m *machine, _ *topology.CNI) { m.must(m.nl.LinkDel(m.link("full7"))) }

// A successful trial is not repeated, except for another MTU or bridge, and an interrupted one
// leaves no port that counts as a pod's.
func TestTrial(t *testing.T) {
	m := newMachine(t)
	change := m.withoutConfig()
	apply := func() {
		t.Helper()
		m.must(m.Apply(context.Background(), change))
		m.noTrial()
	}
	apply()
	first := m.tried
	if first.mtu != 1500 || first.bridge != m.link(topology.Bridge).Attrs().Index {
		t.Errorf("tried %+v", first)
	}
	attrs := rtnl.NewLinkAttrs()
	attrs.Name, attrs.MasterIndex = trialPort, first.bridge
	leave := func() {
		m.must(m.nl.LinkAdd(&rtnl.Veth{LinkAttrs: attrs, PeerName: trialPod}))
		m.must(m.nl.LinkSetMasterByIndex(m.link(trialPort), first.bridge))
		m.Forget()
	}
	leave()
	m.must(m.Apply(context.Background(), change))
	m.link(trialPort) // not tried, or it were gone
	host, err := m.Facts(context.Background(), nil)
	m.must(err)
	if host.Ports != 0 {
		t.Errorf("%d ports of pods", host.Ports)
	}
	m.Sweep()
	m.noTrial()
	leave()
	configIn(change).MTU = 1400
	apply()
	leave()
	m.must(m.Apply(context.Background(), plan.Of(plan.Delete, bridge(topology.Bridge))))
	m.noTrial()
	if _, err := m.nl.LinkByName(topology.Bridge); err == nil {
		t.Error("the bridge is still there")
	}
}

// A device that has the name of a trial's and is of another kind is not ours.
func TestTrialLeavesOthersAlone(t *testing.T) {
	m := newMachine(t)
	change := m.withoutConfig()
	attrs := rtnl.NewLinkAttrs()
	attrs.Name = trialPort
	m.must(m.nl.LinkAdd(&rtnl.Bridge{LinkAttrs: attrs}))
	if err := m.Apply(context.Background(), change); err == nil || !strings.Contains(err.Error(), "the device "+trialPort+" is of another kind, bridge") {
		t.Errorf("got %v", err)
	}
	m.Sweep()
	m.link(trialPort)
}

// A plugin that goes is announced, and one that comes.
func TestPluginsAreWatched(t *testing.T) {
	m := newMachine(t)
	m.cfg.CNI.BinDir = t.TempDir()
	m.plugins.Path = m.cfg.CNI.BinDir
	bridge := filepath.Join(m.cfg.CNI.BinDir, "bridge")
	for _, name := range []string{"bridge", "host-local", "loopback", "portmap"} {
		m.must(os.WriteFile(filepath.Join(m.cfg.CNI.BinDir, name), []byte("#!/bin/sh\n"), 0o755))
	}
	news := m.watchSettled(nodes(2))
	for _, step := range []struct {
		what    string
		disturb func() error
		want    string
	}{
		{"a plugin made a plain file", func() error { return os.Chmod(bridge, 0o644) }, "is not executable"},
		{"a plugin made a program", func() error { return os.Chmod(bridge, 0o755) }, ""},
		{"a plugin deleted", func() error { return os.Remove(bridge) }, "is not in"},
		{"a plugin written", func() error { return os.WriteFile(bridge, []byte("#!/bin/sh\n"), 0o755) }, ""},
		{"a plugin truncated", func() error { return os.Truncate(bridge, 0) }, "only 0 bytes"},
	} {
		m.must(step.disturb())
		for found := false; !found; {
			m.expect(news, step.what)
			host, err := m.Facts(context.Background(), nil)
			m.must(err)
			why, unfit := host.UnfitPlugins["bridge"]
			found = unfit == (step.want != "") && strings.Contains(why, step.want)
		}
		drain(news, shortly)
	}
}

// If any request of a trial is refused, the config is not written, and the error names the request.
func TestRefusedTrialIsReported(t *testing.T) {
	m := newMachine(t)
	change := m.withoutConfig()
	r := seccomp.NewRefuser(t)
	const begin = "trying to make a pod's port: "
	for n, want := range []string{
		"removing what an earlier agent left: ", "adding a veth device with an MTU of 1500: ", "", "putting a veth device into plainroute0: ",
		"putting a veth device into plainroute0: ", "putting a veth device into plainroute0: ", "putting a veth device into plainroute0: ",
	} {
		end := r.Nth(unix.ENOMEM, n+1)
		err := m.Apply(t.Context(), change)
		refused := end()
		if want == "" { // the library looks for a new device's index by itself, and goes on without
			m.must(err)
			m.must(m.cfg.CNI.Remove())
			m.tried = trial{}
			continue
		}
		if !errors.Is(err, unix.ENOMEM) || !strings.HasPrefix(err.Error(), begin+want) || m.Config() != nil || m.tried != (trial{}) {
			t.Errorf("without request %d, of kind %v: %v; the config is %v, tried is %v", n+1, refused, err, m.Config(), m.tried)
		}
		m.Sweep()
		m.noTrial()
	}
	m.must(m.Apply(t.Context(), change))
	// A pair that another program deletes meanwhile is gone as well.
	m.tried = trial{}
	r.Requests(unix.ENODEV, unix.RTM_DELLINK)
	m.must(m.Apply(t.Context(), change))
	r.Nothing()
	m.Sweep()
}
