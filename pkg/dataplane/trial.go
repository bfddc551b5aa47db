package dataplane

import (
	"errors"
	"fmt"

	rtnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/topology"
)

// Names of the two ends of a trial's veth pair.
const (
	trialPort = "plainroute-try0"
	trialPod  = "plainroute-try1"
)

// A trial's result depends on the bridge, by its index, and the MTU.
type trial struct{ bridge, mtu int }

// tryPort makes what the bridge plugin is going to make for each pod, and deletes it: a veth pair
// with the config's MTU, one end of which is in the bridge and in hairpin mode. The plugin moves
// the other end to the pod's network namespace, which takes CAP_SYS_ADMIN; this takes
// CAP_NET_ADMIN. Both ends stay down, so no packet is sent. A successful trial is not repeated for
// the same bridge and MTU.
func (k *Kernel) tryPort(conf topology.CNI) error {
	index, there := k.links.byName[k.links.bridge(conf.Bridge)]
	if !there || k.tried == (trial{index, conf.MTU}) {
		return nil // a missing bridge is another Problem
	}
	failed := func(step string, err error) error {
		return fmt.Errorf("trying to make a pod's port: %s: %w", step, err)
	}
	if err := k.removeTrial(); err != nil {
		return failed("removing what an earlier agent left", err)
	}
	attrs := rtnl.NewLinkAttrs()
	attrs.Name, attrs.MTU = trialPort, conf.MTU
	if err := k.handle.LinkAdd(&rtnl.Veth{LinkAttrs: attrs, PeerName: trialPod}); err != nil {
		return failed(fmt.Sprintf("adding a veth device with an MTU of %d", conf.MTU), err)
	}
	if err := errors.Join(k.attach(index), k.removeTrial()); err != nil {
		return failed("putting a veth device into "+conf.Bridge, err)
	}
	k.tried = trial{index, conf.MTU}
	return nil
}

// attach puts the trial's port into the bridge of that index.
func (k *Kernel) attach(bridge int) error {
	port, err := k.handle.LinkByName(trialPort)
	if err != nil {
		return err
	}
	if err := k.handle.LinkSetMasterByIndex(port, bridge); err != nil {
		return err
	}
	return k.handle.LinkSetHairpin(port, true)
}

// removeTrial deletes the veth pair of a trial, if there is one.
func (k *Kernel) removeTrial() error {
	port, err := k.handle.LinkByName(trialPort)
	switch {
	case errors.As(err, new(rtnl.LinkNotFoundError)):
		return nil
	case err != nil:
		return err
	case port.Type() != topology.KindVeth:
		return fmt.Errorf("the device %s is of another kind, %s", trialPort, kindOf(port))
	}
	if err = k.handle.LinkDel(port); errors.Is(err, unix.ENODEV) {
		return nil
	}
	return err
}

// Sweep deletes what an interrupted Apply left. The caller has the agent's lock. Apply reports what
// can't be deleted.
func (k *Kernel) Sweep() { _ = k.removeTrial() }
