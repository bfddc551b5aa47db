// Package inspect reads from the kernel what is not plainroute's own: firewall chains, neighbors,
// bridge ports, policy rules and the network namespaces of pods. It changes nothing.
package inspect

import (
	"errors"
	"fmt"

	rtnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/dataplane"
)

// An Inspector reads one network namespace. It caches nothing.
type Inspector struct {
	conn   *dataplane.Conn
	handle *rtnl.Handle
}

// New returns an Inspector of the network namespace of the thread that calls it.
func New() (*Inspector, error) {
	conn, err := dataplane.OpenConn()
	if err != nil {
		return nil, err
	}
	handle, err := rtnl.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("opening netlink: %w", err), conn.Close())
	}
	return &Inspector{conn, handle}, nil
}

// Close closes the sockets.
func (i *Inspector) Close() error {
	i.handle.Close()
	return i.conn.Close()
}

// Device is a network device of any kind.
type Device struct{ Name, Kind, Master string }

// Devices lists all devices.
func (i *Inspector) Devices() ([]Device, error) {
	links, names, err := i.links()
	if err != nil {
		return nil, err
	}
	var devices []Device
	for _, l := range links {
		devices = append(devices, Device{l.Attrs().Name, l.Type(), names[l.Attrs().MasterIndex]})
	}
	return devices, nil
}

// MACs returns the MAC addresses of this host's devices by their names, empty if there is none.
func (i *Inspector) MACs() (map[string]string, error) {
	links, _, err := i.links()
	if err != nil {
		return nil, err
	}
	macs := map[string]string{}
	for _, l := range links {
		macs[l.Attrs().Name] = l.Attrs().HardwareAddr.String()
	}
	return macs, nil
}

// links returns all devices, and their names by index.
func (i *Inspector) links() ([]rtnl.Link, map[int]string, error) {
	links, err := dataplane.RetryDump(i.handle.LinkList)
	if err != nil {
		return nil, nil, fmt.Errorf("listing links: %w", err)
	}
	names := map[int]string{}
	for _, l := range links {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	return links, names, nil
}
