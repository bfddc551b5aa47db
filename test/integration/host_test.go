package integration

import (
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/test/nodelab"
	"github.com/plainroute/plainroute/test/testutil"
)

func TestWithoutNetAdmin(t *testing.T) {
	f := setup(t)
	ctx := testutil.Within(t, limit)
	node := f.node(t)
	testutil.Must(t, node.Register(ctx))
	testutil.Must(t, node.StartAgent(nodelab.AgentOptions{WithoutNetAdmin: true}))
	waitNotReady(t, node, "KernelFailed", "NET_ADMIN")
	<-time.After(2 * time.Second)
	waitNotReady(t, node, "KernelFailed", "NET_ADMIN")
	hasNoConfig(t, node)

	testutil.Must(t, node.StopAgent(syscall.SIGTERM))
	testutil.Must(t, node.StartAgent(nodelab.AgentOptions{}))
	comesAlive(t, node)
}

func TestReadOnlyCNIFolder(t *testing.T) {
	f := setup(t)
	ctx := testutil.Within(t, limit)
	node := f.node(t)
	testutil.Must(t, unix.Mount(node.ConfDir, node.ConfDir, "", unix.MS_BIND, ""))
	testutil.Must(t, unix.Mount("", node.ConfDir, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	testutil.Must(t, node.Register(ctx))
	testutil.Must(t, node.StartAgent(nodelab.AgentOptions{}))
	waitNotReady(t, node, "CNIFailed", "read-only")
	hasNoConfig(t, node)
	for _, peer := range f.nodes {
		testutil.Must(t, node.AwaitRoute(ctx, peer.Subnets...))
	}
	testutil.Must(t, unix.Unmount(node.ConfDir, 0))
	comesAlive(t, node)
}
