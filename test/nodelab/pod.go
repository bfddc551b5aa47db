package nodelab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"github.com/containernetworking/cni/libcni"
	types "github.com/containernetworking/cni/pkg/types/100"

	"github.com/plainroute/plainroute/test/netlab"
)

// ErrNoCNIConfig is returned when a node's CNI folder holds no config that a runtime could load: a kubelet would report
// the node as NotReady.
var ErrNoCNIConfig = errors.New("no CNI config")

// Pod is a pod's network namespace, attached to its node by the CNI plugins.
type Pod struct {
	*netlab.Host
	Node *Node
}

// CNIConfig loads the node's CNI config the way a container runtime does: of all the files that look like one, the
// first by name wins.
func (n *Node) CNIConfig() (*libcni.NetworkConfigList, error) {
	files, err := libcni.ConfFiles(n.ConfDir, []string{".conf", ".conflist", ".json"})
	if err != nil {
		return nil, fmt.Errorf("listing the CNI folder of %s: %w", n.Name, err)
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("loading the CNI config of %s: %w in %s", n.Name, ErrNoCNIConfig, n.ConfDir)
	}
	slices.Sort(files)
	content, err := os.ReadFile(files[0])
	if err != nil {
		return nil, fmt.Errorf("loading the CNI config of %s: %w: %w", n.Name, ErrNoCNIConfig, err)
	}
	list, err := libcni.ConfListFromBytes(content)
	if err != nil {
		return nil, fmt.Errorf("parsing the CNI config of %s: %w", n.Name, err)
	}
	return list, nil
}

// AddPod makes a pod and attaches it with the CNI config that the agent wrote. The name has to be unique on the node.
func (n *Node) AddPod(ctx context.Context, name string) (*Pod, error) {
	list, err := n.CNIConfig()
	if err != nil {
		return nil, err
	}
	return n.Attach(ctx, name, list)
}

// Attach makes a pod and attaches it with a CNI config. The name has to be unique on the node.
func (n *Node) Attach(ctx context.Context, name string, list *libcni.NetworkConfigList) (*Pod, error) {
	namespace, err := netlab.NewNamespace(n.Name + "-" + name)
	if err != nil {
		return nil, err
	}
	pod := &Pod{Node: n, Host: &netlab.Host{Namespace: namespace}}
	err = n.Do(func() error {
		result, err := n.plugins().AddNetworkList(ctx, list, pod.runtime())
		if err != nil {
			return err
		}
		return pod.adopt(result)
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("attaching pod %s: %w", pod.Name, err), namespace.Close())
	}
	n.cluster.mu.Lock()
	n.cluster.pods = append(n.cluster.pods, pod)
	n.cluster.mu.Unlock()
	if err := pod.Serve(); err != nil {
		return nil, err
	}
	return pod, nil
}

// plugins calls the stock plugins; their results are kept in the node's folder, not on the machine.
func (n *Node) plugins() *libcni.CNIConfig {
	return libcni.NewCNIConfigWithCacheDir([]string{n.cluster.config.Plugins}, n.cacheDir(), nil)
}

func (n *Node) cacheDir() string { return filepath.Join(n.dir, "cache") }

func (p *Pod) runtime() *libcni.RuntimeConf {
	return &libcni.RuntimeConf{ContainerID: p.Name, NetNS: p.Path(), IfName: netlab.Uplink}
}

// adopt takes the pod's addresses from the plugins' result.
func (p *Pod) adopt(result any) error {
	current, ok := result.(*types.Result)
	if !ok {
		return fmt.Errorf("reading the plugins' result: it is of an unexpected version, %T", result)
	}
	for _, ip := range current.IPs {
		address, ok := netip.AddrFromSlice(ip.Address.IP)
		switch address = address.Unmap(); {
		case !ok:
			return fmt.Errorf("reading the plugins' result: %s is not an address", ip.Address.IP)
		case address.Is4():
			p.V4 = address
		default:
			p.V6 = address
		}
	}
	if len(p.Addrs()) != len(p.Node.Subnets) {
		return fmt.Errorf("reading the plugins' result: got %v; want an address of each family", current.IPs)
	}
	return nil
}

// Remove detaches the pod and ends its namespace.
func (p *Pod) Remove(ctx context.Context) error {
	list, err := p.Node.CNIConfig()
	if err != nil {
		return err
	}
	if err := p.Detach(ctx, list); err != nil {
		return err
	}
	return p.End()
}

// Detach has the plugins detach the pod, or its remainder.
func (p *Pod) Detach(ctx context.Context, list *libcni.NetworkConfigList) error {
	err := p.Node.Do(func() error { return p.Node.plugins().DelNetworkList(ctx, list, p.runtime()) })
	if err != nil {
		return fmt.Errorf("detaching pod %s: %w", p.Name, err)
	}
	return nil
}

// End ends the pod's namespace without its runtime.
func (p *Pod) End() error {
	c := p.Node.cluster
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pods = slices.DeleteFunc(c.pods, func(other *Pod) bool { return other == p })
	return p.Close()
}
