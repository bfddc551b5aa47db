package dataplane

import (
	"errors"
	"fmt"

	rtnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// bridge returns the name if there is such a bridge. Something else of that name
// is somebody else's.
func (f *linkFacts) bridge(name string) string {
	if _, there := f.byName[name]; there && f.kinds[name] == "bridge" {
		return name
	}
	return ""
}

// deleteBridge looks at the ports once more: a pod that a plugin attached meanwhile
// would be cut off without a word.
func (k *Kernel) deleteBridge(name string) error {
	if name == "" {
		return nil
	}
	k.fresh.routes = false
	links, _, err := k.readLinks()
	if err != nil {
		return fmt.Errorf("deleting bridge %s: %w", name, err)
	}
	if links.bridge(name) == "" {
		return nil
	}
	if n := links.ports(name); n > 0 {
		return fmt.Errorf("deleting bridge %s: it has got %d ports meanwhile", name, n)
	}
	err = k.handle.LinkDel(&rtnl.Bridge{LinkAttrs: rtnl.LinkAttrs{Index: links.byName[name]}})
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("deleting bridge %s: %w", name, err)
	}
	return nil
}
