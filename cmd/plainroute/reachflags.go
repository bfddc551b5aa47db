package main

import (
	"fmt"
	"math"

	"github.com/spf13/cobra"

	"github.com/plainroute/plainroute/pkg/topology"
)

// reachFlags are the flags of how peers are reached that are not on link.
type reachFlags struct {
	encapsulation, offLink string
	vxlanPort, vxlanID     int
	table                  int
}

// The defaults of the tunnels: VXLAN's own port (RFC 7348, section 8), and a VNI that no other pod
// network uses by default (flannel has 1, Calico 4096).
const (
	vxlanPort = 4789
	vxlanID   = 112
)

const localTable = 255 // RT_TABLE_LOCAL of linux/rtnetlink.h

func (f *reachFlags) register(cmd *cobra.Command) {
	choose(cmd, &f.encapsulation, "encapsulation", "", "send packets by VXLAN to no peer (never), to those that are not on link (cross-subnet), or to all (always)",
		string(topology.EncapsulateNever), string(topology.EncapsulateCrossSubnet), string(topology.EncapsulateAlways))
	choose(cmd, &f.offLink, "off-link", "", "how to reach peers that are not on link: report each as a problem (report), route by the gateway that leads to them, which must route pod subnets (gateway), "+
		"add no route because the network routes pod subnets (underlay), or as --encapsulation=cross-subnet (tunnel)",
		string(topology.OffLinkReport), string(topology.OffLinkGateway), string(topology.OffLinkUnderlay), string(topology.OffLinkTunnel))
	cmd.Flags().IntVar(&f.table, "table", topology.MainTable, "number of the routing table with our routes, to which policy rules of yours lead; if the nodes' addresses are in a VRF, that VRF's table")
	cmd.Flags().IntVar(&f.vxlanPort, "vxlan-port", vxlanPort, "UDP port of VXLAN, the same on all nodes")
	cmd.Flags().IntVar(&f.vxlanID, "vxlan-id", vxlanID, "VXLAN network identifier, the same on all nodes")
}

// routeTable returns the table with our routes; 0: main.
func (f *reachFlags) routeTable() int {
	if f.table == topology.MainTable {
		return 0
	}
	return f.table
}

// options sets the options, and returns an error for each invalid flag or nil.
func (f *reachFlags) options(opts *topology.Options) []error {
	opts.Encapsulation, opts.OffLink = topology.Encapsulation(f.encapsulation), topology.OffLink(f.offLink)
	opts.VXLANPort, opts.VNI, opts.RouteTable = f.vxlanPort, f.vxlanID, f.routeTable()
	errs := []error{inRange("vxlan-port", f.vxlanPort, 1, 65535), inRange("vxlan-id", f.vxlanID, 1, 1<<24-1), inRange("table", f.table, 1, math.MaxUint32)}
	if f.table == localTable {
		errs = append(errs, fmt.Errorf("--table: %d is the kernel's table of this host's addresses", localTable))
	}
	switch {
	case opts.OffLink == topology.OffLinkTunnel && !opts.Encapsulates():
		opts.Encapsulation = topology.EncapsulateCrossSubnet
	case opts.Encapsulates() && (opts.OffLink == topology.OffLinkGateway || opts.OffLink == topology.OffLinkUnderlay):
		errs = append(errs, fmt.Errorf("--off-link=%s contradicts --encapsulation=%s, which reaches these peers by a tunnel", f.offLink, f.encapsulation))
	}
	return errs
}
