package doctor

import "strings"

// clouds are the providers that drop packets with other addresses than the machine's own, by the
// scheme of the Nodes' providerID, and how to switch that off.
var clouds = []struct{ scheme, name, remedy string }{
	{"aws", "AWS", "switch the source/destination check off on each instance's interface: aws ec2 modify-instance-attribute --no-source-dest-check --instance-id ID; and allow the pod subnets in the security groups"},
	{"gce", "Google Cloud", "make the instances with --can-ip-forward, and give the VPC a route for each pod subnet: it delivers by its routes alone, not by MAC address; and allow the pod subnets in its firewall"},
	{"azure", "Azure", "enable IP forwarding on each network interface (az network nic update --ip-forwarding true), give the VNet a route table with each pod subnet, and allow them in the network security groups"},
	{"openstack", "OpenStack", "allow the pod subnets on each server's port: openstack port set --allowed-address ip-address=SUBNET PORT, or --disable-port-security"},
	{"hcloud", "Hetzner Cloud", "give the private network a route for each pod subnet with the server's private address as gateway: hcloud network add-route; its networks deliver by their routes alone"},
	{"digitalocean", "DigitalOcean", "its VPC drops addresses that are not the droplet's: an overlay is needed there"},
	{"oci", "Oracle Cloud", "tick \"skip source/destination check\" on each VNIC, and allow the pod subnets in the security lists"},
	{"ibm", "IBM Cloud", "allow IP spoofing on each instance's interface (--allow-ip-spoofing true), and allow the pod subnets in the security groups"},
	{"alicloud", "Alibaba Cloud", "give the VPC's route table an entry for each pod subnet with the instance as next hop"},
	{"vsphere", "vSphere", "look at NSX's SpoofGuard and distributed firewall on the port group, which have to let the pod subnets pass"},
}

// cloudRemedy returns the remediation for packets to pods that do not arrive.
func (t *Target) cloudRemedy() string {
	own := t.OwnNode()
	if own == nil && len(t.Nodes) > 0 {
		own = &t.Nodes[0]
	}
	if own != nil {
		scheme, _, _ := strings.Cut(own.Spec.ProviderID, "://")
		for _, c := range clouds {
			if c.scheme == scheme {
				return "on " + c.name + " (providerID " + own.Spec.ProviderID + "): " + c.remedy
			}
		}
	}
	return "look for filters of addresses between the nodes: a cloud's source/destination check, a hypervisor's anti-spoofing, rp_filter and firewalls; on the peer, `plainroute status` shows its agent's state, and tcpdump the packets that arrive"
}
