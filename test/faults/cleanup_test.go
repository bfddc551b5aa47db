package faults

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/plainroute/plainroute/pkg/cleanup"
	"github.com/plainroute/plainroute/pkg/cni"
	"github.com/plainroute/plainroute/pkg/topology"
	"github.com/plainroute/plainroute/test/nodelab"
	"github.com/plainroute/plainroute/test/testutil"
)

// cleanupLab is a lab for cleanups, which makes foreign devices too.
func cleanupLab(t *testing.T, options nodelab.AgentOptions, prepare ...func(*lab)) *lab {
	t.Helper()
	testutil.NeedSandbox(t)
	s, err := shared()
	if err != nil {
		t.Fatal(err)
	}
	return newLab(t, s, fault{options: options, prepare: func(l *lab) {
		attrs := netlink.LinkAttrs{Name: "br-other"}
		l.must(l.node.Handle().LinkAdd(&netlink.Bridge{LinkAttrs: attrs}))
		for _, do := range prepare {
			do(l)
		}
	}})
}

// cleanup runs it, and fails the test unless it ends with the code.
func (l *lab) cleanup(code int, args ...string) nodelab.Command {
	l.t.Helper()
	done, err := l.node.Cleanup(l.within(limit), args...)
	l.must(err)
	if done.Code != code {
		l.t.Fatalf("cleanup %q ended with %d, want %d\n%s%s", args, done.Code, code, done.Stdout, done.Stderr)
	}
	return done
}

// picture is all of ours and the node's files, to be compared.
func (l *lab) picture() state {
	l.t.Helper()
	s, err := l.node.ownState(l.peer)
	l.must(err)
	for _, dir := range []string{l.node.RunDir, l.node.ConfDir} {
		l.must(filepath.Walk(dir, func(path string, _ os.FileInfo, err error) error { return errors.Join(err, s.addFile(path)) }))
	}
	return s
}

func (l *lab) same(before state, after string) {
	l.t.Helper()
	if err := before.compare(l.picture()); err != nil {
		l.t.Errorf("%s: %v", after, err)
	}
}

// nothingLeft fails the test if anything of ours is on the node, or anything else is not as it was.
func (l *lab) nothingLeft() {
	l.t.Helper()
	routes, err := l.node.Routes(l.within(limit))
	l.must(err)
	if routes != "" {
		l.t.Errorf("routes are left:\n%s", routes)
	}
	links, err := l.node.Handle().LinkList()
	l.must(err)
	var names []string
	for _, link := range links {
		names = append(names, link.Attrs().Name)
	}
	if got := strings.Join(names, " "); !strings.Contains(got, "br-other") || strings.Contains(got, "plainroute") || strings.Contains(got, "pods1") {
		l.t.Errorf("the devices are %s", got)
	}
	conn, err := l.node.NFT()
	l.must(err)
	ours := state{}
	l.must(ours.addTables(conn, func(table string) bool { return table == "plainroute" }))
	for chain := range ours {
		l.t.Errorf("left: %s", chain)
	}
	if _, err := os.Stat(l.node.RunDir); !os.IsNotExist(err) {
		l.t.Errorf("the run folder: %v", err)
	}
	if _, err := os.Lstat(l.config()); !os.IsNotExist(err) {
		l.t.Errorf("the CNI config: %v", err)
	}
	now, err := l.node.foreignState()
	l.must(err)
	if err := l.node.foreign.compare(now); err != nil {
		l.t.Errorf("what is not ours: %v", err)
	}
}

// comesBack installs the agent again.
func (l *lab) comesBack() {
	l.t.Helper()
	l.must(l.node.StartAgent(l.options))
	l.must(l.node.WaitReady(l.within(limit)))
	l.must(l.node.AwaitRoute(l.within(limit), l.peer.Subnets...))
}

func TestCleanup(t *testing.T) {
	l := cleanupLab(t, nodelab.AgentOptions{})
	before := l.picture()
	refused := l.cleanup(3)
	if !strings.Contains(refused.Stderr, "pods are attached to bridge plainroute0 (ports: 1)") {
		t.Errorf("it printed %q", refused.Stderr)
	}
	refused = l.cleanup(3, "--force")
	if !strings.Contains(refused.Stderr, "an agent runs on this node") {
		t.Errorf("it printed %q", refused.Stderr)
	}
	plan := l.cleanup(0, "--dry-run", "--force")
	t.Logf("\n%s", plan.Stdout)
	l.same(before, "after refusals and a dry run")

	l.must(l.node.StopAgent(syscall.SIGKILL))
	l.cleanup(3, "--wait", "10s")
	l.same(before, "after a refusal because of a pod")
	l.must(l.pods[0].Remove(l.within(limit)))
	plan = l.cleanup(0, "--dry-run")
	done := l.cleanup(0)
	t.Logf("\n%s", done.Stdout)
	if got := strings.Replace(plan.Stdout, "WOULD BE REMOVED", "REMOVED", 1); words(got) != words(done.Stdout) {
		t.Errorf("planned:\n%s\ndone:\n%s", plan.Stdout, done.Stdout)
	}
	l.nothingLeft()
	if again := l.cleanup(0); !strings.HasPrefix(again.Stdout, "Nothing removed.") {
		t.Errorf("the second time:\n%s", again.Stdout)
	}
	l.nothingLeft()
	l.comesBack()
}

// words takes the columns' widths out of a table.
func words(table string) string { return strings.Join(strings.Fields(table), " ") }

// Tunnels go with all that is on them, beside other programs' VXLAN devices, which stay as they are.
func TestCleanupOfTunnels(t *testing.T) {
	l := cleanupLab(t, nodelab.AgentOptions{}, (*lab).encapsulate)
	l.must(l.pods[0].Remove(l.within(limit)))
	l.must(l.node.StopAgent(syscall.SIGTERM))
	plan := l.cleanup(0, "--dry-run")
	done := l.cleanup(0)
	for _, name := range []string{topology.Tunnel4, topology.Tunnel6} {
		if !strings.Contains(done.Stdout, name) {
			t.Errorf("%s is not in what it printed:\n%s", name, done.Stdout)
		}
	}
	if got := strings.Replace(plan.Stdout, "WOULD BE REMOVED", "REMOVED", 1); words(got) != words(done.Stdout) {
		t.Errorf("planned:\n%s\ndone:\n%s", plan.Stdout, done.Stdout)
	}
	l.nothingLeft()
	l.comesBack()
}

// Pods that live through a forced cleanup keep their bridge and their leases, so that an agent that
// comes back gives their addresses to no other pod.
func TestForcedCleanupUnderPods(t *testing.T) {
	l := cleanupLab(t, nodelab.AgentOptions{})
	other, err := l.node.AddPod(l.within(limit), "other")
	l.must(err)
	l.must(l.node.StopAgent(syscall.SIGTERM))
	summary := filepath.Join(t.TempDir(), "summary")
	var result cleanup.Result
	l.must(json.Unmarshal([]byte(l.cleanup(0, "--force", "-o", "json", "--summary", summary).Stdout), &result))
	if len(result.Kept) != 2 || result.Kept[0].Name != bridge || result.Kept[1].Name != filepath.Join(l.node.RunDir, "ipam") {
		t.Errorf("kept %+v", result.Kept)
	}
	line, err := os.ReadFile(summary)
	l.must(err)
	t.Logf("%s", line)
	if _, err := l.pods[0].Ping(l.within(limit), other.V4); err != nil {
		t.Error("pods of one node:", err)
	}
	routes, err := l.node.Routes(l.within(limit))
	l.must(err)
	if routes != "" {
		t.Errorf("routes are left:\n%s", routes)
	}
	l.comesBack()
	third, err := l.node.AddPod(l.within(limit), "third")
	l.must(err)
	if third.V4 == other.V4 || third.V4 == l.pods[0].V4 {
		t.Errorf("%s was given away twice", third.V4)
	}
	if _, err := third.Ping(l.within(limit), l.pods[1].V6); err != nil {
		t.Error("after the second installation:", err)
	}
}

// A cleanup that is killed wherever it is can be repeated.
func TestInterruptedCleanup(t *testing.T) {
	l := cleanupLab(t, nodelab.AgentOptions{Args: []string{"--bridge", "pods1"}})
	l.must(l.pods[0].Remove(l.within(limit)))
	for i := range 10 {
		l.must(l.node.StopAgent(syscall.SIGKILL))
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(15+6*i)*time.Millisecond)
		killed, err := l.node.Cleanup(ctx)
		cancel()
		l.must(err)
		t.Logf("attempt %d ended with %d; the next one prints\n%s", i, killed.Code, l.cleanup(0).Stdout)
		l.nothingLeft()
		l.comesBack()
		pod, err := l.node.AddPod(l.within(limit), "again")
		l.must(err)
		l.must(pod.Remove(l.within(limit)))
	}
}

// The agent's pod may still be terminating when the cleanup begins.
func TestCleanupWaitsForTheAgent(t *testing.T) {
	l := cleanupLab(t, nodelab.AgentOptions{})
	l.must(l.pods[0].Remove(l.within(limit)))
	stopped := make(chan error, 1)
	time.AfterFunc(lapse, func() { stopped <- l.node.StopAgent(syscall.SIGTERM) })
	done := l.cleanup(0, "--wait", "1m")
	l.must(<-stopped)
	if !strings.Contains(done.Stderr, "waiting up to 1m0s for the agent") {
		t.Errorf("it printed %q", done.Stderr)
	}
	l.nothingLeft()
}

// The agent is found whatever its run folder is, and a cleanup with another one changes nothing.
func TestCleanupWithAnotherRunFolder(t *testing.T) {
	l := cleanupLab(t, nodelab.AgentOptions{})
	before := l.picture()
	other := filepath.Join(t.TempDir(), "run")
	args := []string{"--force", "--run-dir", other}
	holder := "an agent runs on this node (node " + l.node.Name + ", run folder " + l.node.RunDir
	if refused := l.cleanup(3, args...); !strings.Contains(refused.Stderr, holder) {
		t.Errorf("it printed %q, want %q", refused.Stderr, holder)
	}
	if plan := l.cleanup(0, append(args, "--dry-run")...); !strings.Contains(plan.Stdout, "It would be refused now: "+holder) {
		t.Errorf("it printed\n%s", plan.Stdout)
	}
	if _, err := os.Stat(other); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the other run folder: %v", err)
	}
	l.same(before, "after refusals")

	l.must(l.pods[0].Remove(l.within(limit)))
	stopped := make(chan error, 1)
	time.AfterFunc(lapse, func() { stopped <- l.node.StopAgent(syscall.SIGTERM) })
	done := l.cleanup(0, append(args, "--wait", "1m")...)
	l.must(<-stopped)
	if !strings.Contains(done.Stderr, "waiting up to 1m0s for the agent") {
		t.Errorf("it printed %q", done.Stderr)
	}
}

// die ends pods that are never detached. The kernel takes their ports away some time later.
func (l *lab) die(pods ...*nodelab.Pod) {
	l.t.Helper()
	for _, pod := range pods {
		l.must(pod.End())
	}
	at := l.link(bridge).Attrs().Index
	l.await(func() error {
		links, err := l.node.Handle().LinkList()
		if err != nil {
			return err
		}
		for _, link := range links {
			if link.Attrs().MasterIndex == at {
				return fmt.Errorf("the bridge has the port %s", link.Attrs().Name)
			}
		}
		return nil
	})
}

// The kubelet has dead sandboxes detached while the cleanup runs, and host-local makes its folder
// again for each.
func TestCleanupWaitsForDeadSandboxes(t *testing.T) {
	l := cleanupLab(t, nodelab.AgentOptions{})
	pods := []*nodelab.Pod{l.pods[0]}
	for _, name := range []string{"second", "third"} {
		pod, err := l.node.AddPod(l.within(limit), name)
		l.must(err)
		pods = append(pods, pod)
	}
	list, err := l.node.CNIConfig()
	l.must(err)
	l.die(pods...)
	l.must(l.node.StopAgent(syscall.SIGTERM))
	ended := make(chan nodelab.Command, 1)
	go func() {
		done, err := l.node.Cleanup(l.within(limit))
		if err != nil {
			t.Error(err)
		}
		ended <- done
	}()
	store := cni.Store{RunDir: l.node.RunDir, ConfDir: l.node.ConfDir}
	l.await(func() error {
		if !store.Held() {
			return errors.New("the cleanup has not begun")
		}
		return nil
	})
	for _, pod := range pods {
		l.must(pod.Detach(l.within(limit), list))
	}
	done := <-ended
	if done.Code != 0 || !strings.Contains(done.Stderr, "detach dead sandboxes (3, among them ") || strings.Contains(done.Stdout, "has not detached") {
		t.Errorf("it ended with %d and printed\n%s%s", done.Code, done.Stdout, done.Stderr)
	}
	l.nothingLeft()
}

// A cleanup can't wait for a runtime that is off. It reports what the runtime may leave later, and
// the next cleanup removes that.
func TestCleanupReportsDeadSandboxes(t *testing.T) {
	l := cleanupLab(t, nodelab.AgentOptions{})
	list, err := l.node.CNIConfig()
	l.must(err)
	l.die(l.pods[0])
	l.must(l.node.StopAgent(syscall.SIGTERM))
	if done := l.cleanup(0, "--detach-timeout", "0s"); !strings.Contains(done.Stdout, "has not detached all dead sandboxes (1): when it does, the folder ipam") {
		t.Errorf("it printed\n%s", done.Stdout)
	}
	l.nothingLeft()
	l.must(l.pods[0].Detach(l.within(limit), list))
	if done := l.cleanup(0); !strings.Contains(done.Stdout, filepath.Join(l.node.RunDir, "ipam")) || strings.Contains(done.Stdout, "has not detached") {
		t.Errorf("it printed\n%s", done.Stdout)
	}
	l.nothingLeft()
}

// After a reboot only a dangling symlink is left.
func TestCleanupAfterReboot(t *testing.T) {
	l := cleanupLab(t, nodelab.AgentOptions{})
	l.must(l.node.Reboot())
	done := l.cleanup(0)
	if !strings.Contains(done.Stdout, l.config()) {
		t.Errorf("it printed\n%s", done.Stdout)
	}
	if _, err := os.Lstat(l.config()); !os.IsNotExist(err) {
		t.Errorf("the CNI config: %v", err)
	}
}

// A device that only has the name is foreign, and so is a folder.
func TestCleanupTakesNoNameForAMark(t *testing.T) {
	l := cleanupLab(t, nodelab.AgentOptions{})
	l.must(l.pods[0].Remove(l.within(limit)))
	l.must(l.node.StopAgent(syscall.SIGTERM))
	l.cleanup(0)
	l.must(l.node.Handle().LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: bridge}, PeerName: "other"}))
	link, err := l.node.Handle().LinkByName(bridge)
	l.must(err)
	l.must(l.node.Handle().AddrAdd(link, &netlink.Addr{IPNet: ipNet(l.node.Subnets[0])}))
	l.must(os.MkdirAll(filepath.Join(l.config(), "work"), 0o755))
	done := l.cleanup(0)
	if !strings.HasPrefix(done.Stdout, "Nothing removed.") {
		t.Errorf("it printed\n%s", done.Stdout)
	}
	addresses, err := l.node.Handle().AddrList(link, netlink.FAMILY_V4)
	l.must(err)
	if _, err := os.Stat(filepath.Join(l.config(), "work")); err != nil || len(addresses) != 1 {
		t.Errorf("left are %v, %v", addresses, err)
	}
}
