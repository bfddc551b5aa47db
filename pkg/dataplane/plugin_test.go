package dataplane

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/containernetworking/cni/libcni"
	types "github.com/containernetworking/cni/pkg/types/100"

	"github.com/plainroute/plainroute/pkg/topology"
	"github.com/plainroute/plainroute/test/testutil"
)

// A realPod is a network namespace that the stock plugins attached by the agent's own config.
type realPod struct {
	sandbox
	name  string
	addrs []netip.Addr
	mac   string
	port  string
}

// stockPlugins returns libcni with the stock plugins, as a container runtime uses them.
func (m *machine) stockPlugins() *libcni.CNIConfig {
	m.t.Helper()
	dir := testutil.NeedPlugins(m.t)
	// portmap looks for the host's firewall, which these tests don't need.
	return libcni.NewCNIConfigWithCacheDir([]string{dir}, filepath.Join(m.dir, "cache"), nil)
}

// config loads the agent's config, without portmap.
func (m *machine) config() *libcni.NetworkConfigList {
	m.t.Helper()
	content, err := os.ReadFile(filepath.Join(m.dir, "net.d", topology.Conflist))
	m.must(err)
	list, err := libcni.NetworkConfFromBytes(content)
	m.must(err)
	list.Plugins = list.Plugins[:1]
	return list
}

// attach makes a pod as a container runtime does.
func (m *machine) attach(name string) *realPod {
	m.t.Helper()
	pod := &realPod{sandbox: m.newSandbox(), name: name}
	m.must(m.add(pod))
	return pod
}

// add attaches a namespace. The caller's thread must be in the machine's network namespace.
func (m *machine) add(pod *realPod) error {
	result, err := m.stockPlugins().AddNetworkList(context.Background(), m.config(), pod.runtime())
	if err != nil {
		return err
	}
	current, err := types.NewResultFromResult(result)
	if err != nil {
		return err
	}
	for _, ip := range current.IPs {
		addr, _ := netip.AddrFromSlice(ip.Address.IP)
		pod.addrs = append(pod.addrs, addr.Unmap())
	}
	for _, i := range current.Interfaces {
		switch {
		case i.Sandbox != "":
			pod.mac = i.Mac
		case i.Name != topology.Bridge:
			pod.port = i.Name
		}
	}
	return nil
}

// detach ends the pod as a container runtime does.
func (m *machine) detach(pod *realPod) {
	m.t.Helper()
	m.must(m.stockPlugins().DelNetworkList(context.Background(), m.config(), pod.runtime()))
}

func (p *realPod) runtime() *libcni.RuntimeConf {
	return &libcni.RuntimeConf{ContainerID: p.name, NetNS: fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), p.fd), IfName: "eth0"}
}

// nextIs makes host-local give this address of each family next.
func (m *machine) nextIs(addrs []netip.Addr) {
	m.t.Helper()
	for i, addr := range addrs {
		last := filepath.Join(m.dir, "run", topology.IPAMDir, topology.Network, fmt.Sprintf("last_reserved_ip.%d", i))
		m.must(os.WriteFile(last, []byte(addr.Prev().String()), 0o600))
	}
}

// oneFamily returns Nodes with the first or second pod subnet alone.
func oneFamily(all []*topology.Node, which int) []*topology.Node {
	for _, n := range all {
		n.PodCIDRs = n.PodCIDRs[which : which+1]
	}
	return all
}
