package integration

import (
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/test/cluster"
)

func TestWithoutNetAdmin(t *testing.T) {
	f := setup(t)
	ctx := within(t, limit)
	node := f.node(t)
	must(t, node.Register(ctx))
	must(t, node.StartAgent(cluster.AgentOptions{WithoutNetAdmin: true}))
	waitNotReady(t, node, "KernelFailed", "NET_ADMIN")
	<-time.After(2 * time.Second)
	waitNotReady(t, node, "KernelFailed", "NET_ADMIN")
	hasNoConfig(t, node)

	must(t, node.StopAgent(syscall.SIGTERM))
	must(t, node.StartAgent(cluster.AgentOptions{}))
	comesAlive(t, node)
}

func TestReadOnlyCNIFolder(t *testing.T) {
	f := setup(t)
	ctx := within(t, limit)
	node := f.node(t)
	must(t, unix.Mount(node.ConfDir, node.ConfDir, "", unix.MS_BIND, ""))
	must(t, unix.Mount("", node.ConfDir, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	must(t, node.Register(ctx))
	must(t, node.StartAgent(cluster.AgentOptions{}))
	waitNotReady(t, node, "CNIFailed", "read-only")
	hasNoConfig(t, node)
	for _, peer := range f.nodes {
		must(t, node.AwaitRoute(ctx, peer.Subnets...))
	}
	must(t, unix.Unmount(node.ConfDir, 0))
	comesAlive(t, node)
}
