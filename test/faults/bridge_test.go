package faults

import (
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/problem"
)

// carrierLag is how long the kernel may take to find that the pod's link, or the bridge with the one port that it has
// here, has a carrier again: it looks once a second (linkwatch_schedule_work of net/core/link_watch.c).
const carrierLag = 1500 * time.Millisecond

func bridgeFaults() []fault {
	return []fault{
		{
			name: "the bridge set down", answer: "it is set up again",
			inject: func(l *lab) { l.must(l.node.Handle().LinkSetDown(l.link(bridge))) },
			times:  3, within: healLimit, loses: untilRepaired, lag: carrierLag,
		},
		{
			name: "a pod's port taken out of the bridge", answer: "it is put back",
			inject: func(l *lab) { l.must(l.node.Handle().LinkSetNoMaster(l.port())) },
			times:  3, within: healLimit, loses: untilRepaired, lag: carrierLag,
		},
		{
			name: "a pod's port set down", answer: "it is set up again",
			inject: func(l *lab) { l.must(l.node.Handle().LinkSetDown(l.port())) },
			within: healLimit, loses: untilRepaired, lag: carrierLag,
		},
		{
			name: "a pod's port taken out of the bridge while the agent is away", answer: "the next agent recognizes it by its lease, and puts it back",
			inject: strayWhileAway, within: startLimit, loses: untilRepaired, lag: carrierLag,
		},
		{
			name: "a pod's port put into another bridge", answer: "it is reported and left there; put back by hand, the report is gone",
			inject: portElsewhere, within: healLimit, loses: untilRepaired, lag: carrierLag,
		},
		{
			name: "the bridge renamed under its pods", answer: "it is reported by its new name, and no bridge is made beside it; with its old name all is as it was",
			inject: renamedBridge, times: 2, within: healLimit, loses: untilRepaired,
		},
		{
			name: "the bridge deleted under its pods", answer: "it is made again with the same MAC address, and the ports are put back",
			inject: func(l *lab) { l.must(l.node.Handle().LinkDel(l.link(bridge))) },
			times:  3, within: healLimit, loses: untilRepaired, lag: carrierLag,
		},
		{
			name: "IPv6 switched off on the bridge", answer: "it is switched on again, and the addresses are given back",
			inject: func(l *lab) { l.must(l.node.Sysctl("net/ipv6/conf/"+bridge+"/disable_ipv6", "1")) },
			times:  3, within: healLimit, loses: untilRepaired,
		},
		{
			name: "IPv6 switched off on the whole host", answer: "one problem names the settings; other devices are left alone, and all is well once the operator gives back what is theirs",
			inject: withoutIPv6, within: healLimit, loses: untilRepaired,
		},
		{
			name: "the bridge deleted on a host that has IPv6 off on new devices", answer: "pods can be made from the first on; IPv6 is on on the bridge alone",
			prepare: func(l *lab) { l.must(l.node.Sysctl("net/ipv6/conf/default/disable_ipv6", "1")) },
			inject:  func(l *lab) { l.must(l.node.Handle().LinkDel(l.link(bridge))) },
			times:   2, within: healLimit, loses: untilRepaired, lag: carrierLag,
		},
		{
			name: "another program takes a pod's port out of the bridge every 100 ms, for 20 s", answer: "after 20 repairs it is put back every 2 s, which is reported",
			inject: portTaken, within: truceLimit, loses: untilRepaired, slow: true,
		},
	}
}

// port is the node's end of the link to its pod.
func (l *lab) port() netlink.Link {
	l.t.Helper()
	links, err := l.node.pods()
	l.must(err)
	if len(links) != 1 {
		l.t.Fatalf("%s has %d ports of pods, want 1", l.node.Name, len(links))
	}
	return links[0]
}

// pods returns the node's ends of links to pods, which the stock plugin calls veth and a number.
func (m *machine) pods() ([]netlink.Link, error) {
	all, err := m.Handle().LinkList()
	if err != nil {
		return nil, fmt.Errorf("listing the links of %s: %w", m.Name, err)
	}
	var pods []netlink.Link
	for _, link := range all {
		if strings.HasPrefix(link.Attrs().Name, "veth") {
			pods = append(pods, link)
		}
	}
	return pods, nil
}

// addDevices adds the bridge and the ports of pods.
func (s state) addDevices(m *machine) error {
	own, err := m.Handle().LinkByName(bridge)
	if err != nil {
		return fmt.Errorf("finding the bridge: %w", err)
	}
	s["bridge "+bridge] = fmt.Sprintf("up %t, MAC address %s", own.Attrs().Flags&net.FlagUp != 0, own.Attrs().HardwareAddr)
	pods, err := m.pods()
	if err != nil {
		return err
	}
	for _, pod := range pods {
		hairpin := "no port"
		if pod.Attrs().MasterIndex != 0 {
			info, err := m.Handle().LinkGetProtinfo(pod)
			if err != nil {
				return fmt.Errorf("asking for a port: %w", err)
			}
			hairpin = fmt.Sprint(info.Hairpin)
		}
		s["port "+pod.Attrs().Name] = fmt.Sprintf("up %t, in the bridge %t, hairpin %s",
			pod.Attrs().Flags&net.FlagUp != 0, pod.Attrs().MasterIndex == own.Attrs().Index, hairpin)
	}
	return nil
}

func strayWhileAway(l *lab) {
	l.must(l.node.StopAgent(unix.SIGTERM))
	l.broken()
	l.must(l.node.Handle().LinkSetNoMaster(l.port()))
	l.repairable()
	l.must(l.node.StartAgent(l.options))
}

func portElsewhere(l *lab) {
	other := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br-other"}}
	l.must(l.node.Handle().LinkAdd(other))
	l.broken()
	l.must(l.node.Handle().LinkSetMaster(l.port(), other))
	l.await(func() error {
		return l.checkProblem(problem.BridgeFailed, l.port().Attrs().Name+", the port of the pod")
	})
	if l.port().Attrs().MasterIndex != l.link("br-other").Attrs().Index {
		l.t.Error("the port does not stay where it was put")
	}
	l.must(l.node.Handle().LinkDel(other))
	l.repairable()
}

// renamedBridge gives the bridge another name, and its own again once that is reported.
func renamedBridge(l *lab) {
	const name = "br-renamed"
	l.broken()
	l.must(l.node.Handle().LinkSetName(l.link(bridge), name))
	l.await(func() error {
		return l.checkProblem(problem.BridgeFailed, "ip link set dev "+name+" name "+bridge)
	})
	time.Sleep(lapse)
	if _, err := l.node.Handle().LinkByName(bridge); err == nil {
		l.t.Error("another bridge was made")
	}
	l.must(l.node.Handle().LinkSetName(l.link(name), bridge))
	l.repairable()
}

// withoutIPv6 is `sysctl net.ipv6.conf.all.disable_ipv6=1`, and some time later its reversal by the
// host's network manager.
func withoutIPv6(l *lab) {
	saved := l.save()
	l.broken()
	l.must(l.node.Sysctl("net/ipv6/conf/all/disable_ipv6", "1"))
	l.await(func() error {
		return l.checkProblem(problem.AddressMissing, "net/ipv6/conf/"+uplink+"/disable_ipv6=1")
	})
	l.await(l.onlyOneOwn)
	l.must(l.node.Sysctl("net/ipv6/conf/all/disable_ipv6", "0"))
	l.giveAddress(l.node.V6)
	l.restore(saved)
	l.repairable()
}

// onlyOneOwn returns an error if more than one problem keeps the node from being ready.
func (l *lab) onlyOneOwn() error {
	problems, err := l.node.problems(l.t.Context())
	if err != nil {
		return err
	}
	var own []problem.Problem
	for _, p := range problems {
		if p.BlocksReady {
			own = append(own, p)
		}
	}
	if len(own) != 1 {
		return fmt.Errorf("%d problems of the node's own, want 1: %v", len(own), own)
	}
	return nil
}

func portTaken(l *lab) {
	port := l.port()
	l.flap(func() { l.must(l.node.Handle().LinkSetNoMaster(port)) })
	l.must(l.checkProblem(problem.Contested, "device "+port.Attrs().Name))
	if err := l.checkRepairs("device", freeRepairs); err != nil {
		l.t.Error(err)
	}
	l.repairable()
}
