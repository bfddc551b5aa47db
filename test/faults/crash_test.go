package faults

import (
	"errors"
	"flag"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/google/nftables"

	"github.com/plainroute/plainroute/test/inject"
	"github.com/plainroute/plainroute/test/netlab"
	"github.com/plainroute/plainroute/test/nodelab"
	"github.com/plainroute/plainroute/test/seccomp"
	"github.com/plainroute/plainroute/test/testutil"
)

// every is how many writes lie between two at which a program is killed. `make test` tries a sample.
var every = flag.Int64("every", 13, "kill at one write in so many; 1: at each")

// writes counts the writes of a program, and has it killed before one of them.
type writes struct {
	until  int64 // the number of the write
	count  atomic.Int64
	before atomic.Pointer[string] // what it was
}

// start starts a program in a namespace.
func (w *writes) start(n *netlab.Namespace, cmd *exec.Cmd) error {
	return seccomp.Supervise(cmd, func() error { return n.Do(cmd.Start) }, w.allow)
}

// allow reports whether a write may be made: unless it is the one before which the program is killed.
func (w *writes) allow(change string) bool {
	if w.count.Add(1) != w.until {
		return true
	}
	w.before.Store(&change)
	return false
}

// killedBefore is the write; empty: the program made fewer, and ended.
func (w *writes) killedBefore() string {
	if before := w.before.Load(); before != nil {
		return *before
	}
	return ""
}

// crash kills a program before each of its writes, one after the other, until it makes all of them. run runs it once, and after puts
// all in order, which it checks.
func crash(t *testing.T, run func(*writes), after func()) { t.Helper(); crashAt(t, *every, run, after) }

// crashAt is crash with a step of its own: 1 is at each write.
func crashAt(t *testing.T, step int64, run func(*writes), after func()) {
	t.Helper()
	for until := int64(1); ; until += step {
		w := &writes{until: until}
		run(w)
		before := w.killedBefore()
		if before == "" && until == 1 {
			t.Fatal("the program made no write, or none was seen")
		}
		t.Logf("killed before write %d: %s", until, before)
		after()
		if t.Failed() || before == "" {
			t.Logf("%d writes, killed at one in %d", w.count.Load(), step)
			return
		}
	}
}

// runAgent starts an agent, and stops it once the node is ready.
func (l *lab) runAgent(w *writes) {
	l.t.Helper()
	options := l.options
	options.Start = w.start
	l.must(l.node.StartAgent(options))
	ready := l.node.WaitReady(l.within(limit))
	if w.killedBefore() == "" {
		l.must(ready)
		l.must(l.node.StopAgent(syscall.SIGTERM)) // it saves the Nodes, and may be killed meanwhile
	}
	_ = l.node.AwaitAgentEnd(l.within(limit))
}

// crashLab is a lab of nodes with tunnels.
func crashLab(t *testing.T) *lab {
	t.Helper()
	return cleanupLab(t, nodelab.AgentOptions{}, (*lab).encapsulate)
}

// An agent that is killed at any write of a pass with all kinds of changes cuts no traffic of pods that the pass does not
// concern. The next agent completes the pass.
func TestKilledAtEachWriteOfAPass(t *testing.T) {
	l := crashLab(t)
	l.startTraffic()
	newcomers, client := l.newcomers(3), l.pool.Client()
	changing, leaving, spare := newcomers[0], newcomers[1], newcomers[2]
	l.joined = newcomers[:2]
	devices := l.devices()
	l.createNodes(fakesOf(l.joined)...)
	healthy := func() error {
		for i, subnet := range changing.subnets {
			via, err := l.node.via(subnet)
			if err != nil {
				return err
			}
			if via != changing.addrs()[i] {
				return fmt.Errorf("%s is reached via %s", subnet, via)
			}
		}
		return errors.Join(l.node.ready(l), l.joinedRouted())
	}
	l.await(healthy)
	crash(t, func(w *writes) {
		l.must(l.node.StopAgent(syscall.SIGTERM))
		l.must(inject.DeleteNodes(l.within(limit), client, leaving.FakeNode))
		changing.Addresses, spare.Addresses = spare.Addresses, changing.Addresses
		l.must(l.pool.Claim(l.within(limit), changing.Name, changing.addrs()...))
		l.disorder()
		l.runAgent(w)
	}, func() {
		l.run(before)
		l.must(l.node.StartAgent(l.options))
		l.must(l.node.WaitReady(l.within(limit)))
		l.must(l.node.AwaitNoRoute(l.within(limit), leaving.subnets...))
		l.must(inject.CreateNodes(l.within(limit), client, leaving.FakeNode))
		l.await(healthy)
		l.checkUntouched()
		l.checkDevices(devices)
	})
	for _, report := range l.stopTraffic() {
		// A crash that cuts the traffic does so until the next agent's pass. One packet alone may get lost on a machine under load.
		if report.LongestLoss > 1 || report.Sent == 0 {
			t.Errorf("the traffic was cut: %s, %d in a row", report, report.LongestLoss)
		}
		t.Log(report)
	}
}

// addrs are the Node's InternalIPs.
func (n newcomer) addrs() []netip.Addr {
	var addrs []netip.Addr
	for _, text := range n.Addresses {
		addrs = append(addrs, netip.MustParseAddr(text))
	}
	return addrs
}

// disorder changes what the pods' traffic does not need at the moment: a route to a Node that is there in name only, the table, a
// setting and the CNI config.
func (l *lab) disorder() {
	l.t.Helper()
	l.deleteOurs(l.joined[0].subnets[1])
	l.changeTable(func(conn *nftables.Conn) { conn.DelTable(ourTable()) })
	l.must(l.node.Sysctl("net/ipv6/conf/"+bridge+"/accept_ra", "1"))
	l.must(os.Remove(l.config()))
}

// An agent that is killed at any write of its first pass leaves a node that the next agent completes.
func TestKilledAtEachWriteOfTheFirstPass(t *testing.T) {
	l := crashLab(t)
	l.must(l.pods[0].Remove(l.within(limit)))
	devices := l.devices()
	l.bare()
	crash(t, l.runAgent, func() {
		l.comesBack()
		l.await(l.checkOurs)
		l.checkUntouched()
		l.checkDevices(devices)
		l.must(l.node.StopAgent(syscall.SIGTERM))
		l.cleanup(0)
		l.nothingLeft()
	})
}

// devices are the names of the node's devices.
func (l *lab) devices() (names []string) {
	l.t.Helper()
	links, err := l.node.Handle().LinkList()
	l.must(err)
	for _, link := range links {
		names = append(names, link.Attrs().Name)
	}
	slices.Sort(names)
	return names
}

func (l *lab) checkDevices(want []string) {
	l.t.Helper()
	if got := l.devices(); !slices.Equal(got, want) {
		l.t.Errorf("the devices are %q, and were %q", got, want)
	}
}

// bare removes the agent and all of ours from the node, which has no pods, and notes before how it was.
func (l *lab) bare() {
	l.t.Helper()
	var err error
	l.node.ours, err = l.node.ownState(l.peer)
	l.must(err)
	l.must(l.node.StopAgent(syscall.SIGTERM))
	l.cleanup(0)
}

// A cleanup that is killed at any write can be run again, and an agent can be started instead.
func TestKilledAtEachWriteOfACleanup(t *testing.T) {
	l := crashLab(t)
	l.must(l.pods[0].Remove(l.within(limit)))
	l.bare()
	again := false
	crash(t, func(w *writes) {
		l.comesBack()
		l.must(l.node.StopAgent(syscall.SIGTERM))
		w.run(t, l.node.Namespace, l.node.CleanupArgs()...)
	}, func() {
		if again = !again; again {
			l.comesBack()
			l.await(l.checkOurs)
			l.must(l.node.StopAgent(syscall.SIGTERM))
		}
		l.cleanup(0)
		l.nothingLeft()
	})
}

// run runs a command of plainroute on a node.
func (w *writes) run(t *testing.T, n *netlab.Namespace, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(testutil.Within(t, limit), testutil.Agent(), args...)
	output, err := os.Create(filepath.Join(t.TempDir(), "output"))
	testutil.Must(t, err)
	defer output.Close()
	cmd.Stdout, cmd.Stderr = output, output
	testutil.Must(t, w.start(n, cmd))
	if err := cmd.Wait(); err != nil && w.killedBefore() == "" {
		text, _ := os.ReadFile(output.Name())
		t.Fatalf("%v: %s", err, text)
	}
}

// A plugin is the old one, the new one, or missing, whenever install-cni is killed; the next run installs all.
func TestKilledAtEachWriteOfInstallCNI(t *testing.T) {
	l := crashLab(t)
	want, old := plugins(t, testutil.Plugins()), []byte("#!/bin/true\n")
	to := t.TempDir()
	args := []string{"install-cni", "--force", "--from", testutil.Plugins(), "--to", to}
	crash(t, func(w *writes) {
		for i, name := range slices.Sorted(maps.Keys(want)) {
			testutil.Must(t, os.RemoveAll(filepath.Join(to, name)))
			if i%2 == 1 {
				testutil.Must(t, os.WriteFile(filepath.Join(to, name), old, 0o755))
			}
		}
		w.run(t, l.node.Namespace, args...)
	}, func() {
		for name, content := range plugins(t, to) {
			if plugin, known := want[name]; known && content != plugin && content != string(old) {
				t.Errorf("%s is neither the new plugin nor the old one: it has %d bytes", name, len(content))
			}
		}
		(&writes{}).run(t, l.node.Namespace, args...)
		if got := plugins(t, to); !maps.Equal(got, want) {
			t.Errorf("the next run installed %q", slices.Sorted(maps.Keys(got)))
		}
		if litter, err := filepath.Glob(filepath.Join(to, ".*")); err != nil || len(litter) > 0 {
			t.Errorf("left: %q, error %v", litter, err)
		}
	})
}

// plugins are the contents of the files in a folder, other than hidden ones.
func plugins(t *testing.T, folder string) map[string]string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(folder, "[a-z]*"))
	testutil.Must(t, err)
	found := map[string]string{}
	for _, path := range paths {
		content, err := os.ReadFile(path)
		testutil.Must(t, err)
		found[filepath.Base(path)] = string(content)
	}
	return found
}
