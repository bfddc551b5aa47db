package doctor

import (
	"testing"

	"github.com/plainroute/plainroute/pkg/problem"
)

// A route into a tunnel, or to a gateway, has a next hop that is not its Node's address.
func TestNextHopThatIsNoNode(t *testing.T) {
	for name, commands := range map[string]string{
		"a tunnel": `ip link add plainroute-v4 address 02:18:0a:f4:01:00 mtu 1450 type vxlan id 112 local 192.168.1.11 dstport 4789 nolearning
			ip link set plainroute-v4 alias plainroute up
			ip address add 10.244.1.0/32 dev plainroute-v4
			ip neighbor add 10.244.2.0 lladdr 02:18:0a:f4:02:00 dev plainroute-v4 nud permanent
			bridge fdb add 02:18:0a:f4:02:00 dev plainroute-v4 dst 192.168.2.12
			ip route replace 10.244.2.0/24 via 10.244.2.0 dev plainroute-v4 proto 112 metric 2300 onlink
			nft add table inet plainroute '{ chain prerouting { type filter hook prerouting priority raw; iifname plainroute-v4 ip saddr != 10.244.0.0/16 drop; }; }'`,
		"a gateway": "ip route replace 10.244.2.0/24 via 192.168.1.1 dev eth0 proto 112 metric 2300 onlink",
	} {
		t.Run(name, func(t *testing.T) {
			w := newTestbed(t)
			w.sh(commands)
			w.look()
			w.finds("policy-rules", problem.None)
			w.finds("forward-policy", problem.None)
		})
	}
}
