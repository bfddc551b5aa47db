package topology

import "strconv"

// Paths of settings below /proc/sys. Those with a device take its name by
// ConfSysctl: a name may hold dots, so dotted paths won't do.
const (
	SysctlForward4  = "net/ipv4/ip_forward"
	SysctlForward6  = "net/ipv6/conf/all/forwarding"
	SysctlBridgeNF4 = "net/bridge/bridge-nf-call-iptables"
	SysctlBridgeNF6 = "net/bridge/bridge-nf-call-ip6tables"
)

// ConfSysctl returns the path of a device's own setting for a family, 4 or 6.
func ConfSysctl(family int, dev, name string) string {
	return "net/ipv" + strconv.Itoa(family) + "/conf/" + dev + "/" + name
}

// sysctls asks for forwarding, on each device that pods' packets cross too, for
// writing 1 over 1 into the global setting repairs no device; and for bridged
// packets to pass the firewall, without which replies from a Service's pod on
// the same node bypass the NAT that they need.
func (b *builder) sysctls() {
	b.desired.Sysctls = map[string]string{}
	for _, p := range b.subnets {
		if p.Addr().Is4() {
			b.need(SysctlForward4, "IPv4 is off in this kernel")
			b.need(SysctlBridgeNF4, "load the module br_netfilter, or Services time out between pods of this node")
			b.forwardOn(4)
			continue
		}
		b.acceptRA()
		b.need(SysctlForward6, "IPv6 is off in this kernel, yet the Node has an IPv6 pod subnet")
		b.need(SysctlBridgeNF6, "load the module br_netfilter, or Services time out between pods of this node")
		b.forwardOn(6)
	}
}

// need asks for the value 1.
func (b *builder) need(path, cure string) {
	if _, ok := b.actual.Sysctls[path]; !ok {
		b.ownProblem(SettingMissing, "/proc/sys/%s does not exist: %s", path, cure)
		return
	}
	b.desired.Sysctls[path] = "1"
}

func (b *builder) forwardOn(family int) {
	devs := map[string]bool{b.opts.Bridge: true}
	for _, link := range b.uplinks {
		devs[link.Name] = true
	}
	last := ""
	for _, r := range b.desired.Routes {
		if r.Dev != last && r.Dev != "" {
			devs[r.Dev] = true
			last = r.Dev
		}
	}
	for dev := range devs {
		path := ConfSysctl(family, dev, "forwarding")
		if _, ok := b.actual.Sysctls[path]; ok {
			b.desired.Sysctls[path] = "1"
		}
	}
}

// acceptRA keeps what the host learned from routers: once it forwards, the
// kernel drops it, the default route too, unless accept_ra is 2
// (ip-sysctl.rst, accept_ra).
func (b *builder) acceptRA() {
	for _, link := range b.host.Links {
		path := ConfSysctl(6, link.Name, "accept_ra")
		if link.RouterAdvertised && (b.actual.Sysctls[path] == "1" || b.actual.Sysctls[path] == "2") {
			b.desired.Sysctls[path] = "2"
		}
	}
}
