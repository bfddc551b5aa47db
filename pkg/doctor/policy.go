package doctor

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"

	"github.com/plainroute/plainroute/pkg/topology"
)

// policyRules asks the kernel itself where it sends packets for peers' pods: rules may
// have it look into other tables than main, where ours are not.
func policyRules(ctx context.Context, p *Patient) []Finding {
	if p.Kernel == nil || p.KernelErr != nil {
		return Skip("the kernel can't be looked at", "")
	}
	var found []Finding
	for _, r := range p.State.Routes {
		if r.Metric != topology.MetricPeer || ctx.Err() != nil || p.takenByMain(r) {
			continue
		}
		dev, from := p.podOf(r.Dst.Addr().Is4())
		via, out, err := p.Kernel.Lookup(r.Dst.Addr().Next(), dev, from)
		switch {
		case err != nil:
			found = append(found, Fail("the kernel has no way for packets from pods here to those of "+r.Dst.String(), err.Error(),
				"see which rule or route refuses them: ip rule; ip route get "+r.Dst.Addr().Next().String()))
		case via != r.Via || out != r.Dev:
			found = append(found, Fail("a rule sends packets for the pods of "+r.Dst.String()+" past the main table", fmt.Sprintf("they go via %s dev %s, and the route is %s", via, out, r),
				"have the rule leave pods' packets to the main table: ip rule shows it; ip rule add to "+r.Dst.String()+" lookup main priority N, with N below that of the rule"))
		}
		if len(found) >= manyFindings {
			break
		}
	}
	return found
}

// manyFindings of one kind say no more than a few do.
const manyFindings = 8

// takenByMain tells routes to which foreign-routes has something to say.
func (p *Patient) takenByMain(ours topology.Route) bool {
	return slices.ContainsFunc(p.Host.Routes, func(r topology.Route) bool {
		return r.Dst.Bits() >= ours.Dst.Bits() && ours.Dst.Overlaps(r.Dst)
	})
}

// podOf gives the device and an address that packets of our own pods come in with;
// none, where there are none.
func (p *Patient) podOf(is4 bool) (string, netip.Addr) {
	if p.Report == nil || p.State.Bridge == "" {
		return "", netip.Addr{}
	}
	for _, s := range p.Report.Host.Subnets {
		if s.Addr().Is4() == is4 && slices.ContainsFunc(p.State.Addresses, func(a topology.Address) bool { return s.Contains(a.Prefix.Addr()) }) {
			return p.State.Bridge, s.Addr().Next().Next()
		}
	}
	return "", netip.Addr{}
}

// reversePath looks for links that drop what comes from peers' pods, because the
// answer would leave by another link (strict mode of RFC 3704, rp_filter of
// ip-sysctl.rst: the greater of all's and the device's counts).
func reversePath(_ context.Context, p *Patient) []Finding {
	if p.Report == nil {
		return Skip("the agent does not answer, so which links are uplinks is not known", "see why: plainroute status")
	}
	strict := map[string]string{}
	for _, u := range p.Report.Host.Uplinks {
		if path, ok := p.strict(u.Name); ok && p.bears4(u.Name) {
			strict[u.Name] = path
		}
	}
	for _, r := range p.State.Routes {
		if r.Metric != topology.MetricPeer || !r.Dst.Addr().Is4() || strict[r.Dev] != "" {
			continue
		}
		for _, dev := range slices.Sorted(maps.Keys(strict)) {
			return []Finding{Fail("what comes from peers' pods by "+dev+" is dropped, because answers leave by "+r.Dev,
				fmt.Sprintf("%s=1, and the route is %s", strict[dev], r), "loosen it: sysctl -w net/ipv4/conf/"+dev+"/rp_filter=2")}
		}
	}
	return nil
}

// bears4 tells whether a link has an InternalIP of IPv4, to which peers send what is for
// the pods.
func (p *Patient) bears4(dev string) bool {
	return slices.ContainsFunc(p.Host.Links, func(l topology.Link) bool {
		return l.Name == dev && slices.ContainsFunc(l.Addrs, func(a netip.Prefix) bool {
			return a.Addr().Is4() && slices.Contains(p.Report.Host.Addresses, a.Addr())
		})
	})
}

// strict tells whether a device checks sources strictly, and by which setting.
func (p *Patient) strict(dev string) (string, bool) {
	worst, at := 0, ""
	for _, name := range []string{"all", dev} {
		path := topology.ConfSysctl(4, name, "rp_filter")
		value, err := p.Setting(path)
		if n, e := strconv.Atoi(value); err == nil && e == nil && n > worst {
			worst, at = n, path
		}
	}
	return at, worst == 1
}
