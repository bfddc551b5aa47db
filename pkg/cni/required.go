package cni

import "github.com/plainroute/plainroute/pkg/topology"

// Required returns the plugins without which no pod starts: those of our config, and loopback,
// which container runtimes call for each pod.
func Required() []string {
	return []string{"bridge", "host-local", "loopback", "portmap"}
}

// RequiredBy returns those of our plugins that a config calls.
func RequiredBy(c *topology.CNI) []string {
	if c != nil && c.Firewall {
		return append(Required(), topology.FirewallPlugin)
	}
	return Required()
}

// Chained returns the further plugins that a config calls.
func Chained(c *topology.CNI) []string {
	var names []string
	if c != nil {
		for _, p := range c.Plugins {
			names = append(names, p.Type)
		}
	}
	return names
}
