package dataplane

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"

	"github.com/plainroute/plainroute/pkg/cni"
)

// If the plugins accept CNI 1.1.0, a runtime that supports it attaches pods by it.
func TestCNI11(t *testing.T) {
	m := newMachine(t)
	runtime := m.stockPlugins()
	m.cfg.CNI.BinDir, m.plugins.Path = runtime.Path[0], runtime.Path[0]
	m.settle(nodes(2))
	if version := m.config().CNIVersion; version != "1.1.0" {
		t.Fatalf("the runtime takes CNI %s", version)
	}
	stays, forgotten := m.attach("stays"), m.attach("forgotten")
	m.leaseTo("10.128.0.77", "died", "eth0")
	m.must(runtime.GetStatusNetworkList(t.Context(), m.config()))
	m.must(runtime.CheckNetworkList(t.Context(), m.config(), stays.runtime()))
	missing := libcni.NewCNIConfigWithCacheDir([]string{t.TempDir()}, t.TempDir(), nil)
	if err := missing.GetStatusNetworkList(t.Context(), m.config()); err == nil {
		t.Error("STATUS succeeds without plugins")
	}

	valid := []types.GCAttachment{{ContainerID: "stays", IfName: "eth0"}}
	m.must(runtime.GCNetworkList(t.Context(), m.config(), &libcni.GCArgs{ValidAttachments: valid}))
	leases, err := m.cfg.CNI.HeldLeases()
	m.must(err)
	holders := func(name string) bool {
		return slices.ContainsFunc(leases, func(l cni.Lease) bool { return l.Container == name })
	}
	if !holders("stays") || holders("forgotten") || !holders("died") {
		t.Errorf("after GC the leases are %v", leases)
	}
	if _, err := m.nl.LinkByName(forgotten.port); err == nil {
		t.Error("GC left the port of a pod that the runtime forgot")
	}
}

// Without plugins that are known to accept it, CNI 1.0.0 stands, and pods are attached by that.
func TestCNI10(t *testing.T) {
	m := newMachine(t)
	m.cfg.CNI.BinDir = t.TempDir()
	m.plugins.Path = m.cfg.CNI.BinDir
	for _, name := range cni.Required() {
		m.must(os.WriteFile(filepath.Join(m.cfg.CNI.BinDir, name), []byte("#!/bin/sh\n"), 0o755))
	}
	m.settle(nodes(2))
	if version := m.config().CNIVersion; version != "1.0.0" {
		t.Fatalf("the runtime takes CNI %s", version)
	}
	m.attach("pod")
}
