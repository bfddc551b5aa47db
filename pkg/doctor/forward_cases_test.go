package doctor

import "github.com/plainroute/plainroute/pkg/problem"

// A forwardCase is a ruleset for nft -f, or for iptables-restore, and the check's result. The
// evidence has to contain its words.
type forwardCase struct {
	rules   string
	want    problem.Severity
	message string
}

const forwardHook = " { type filter hook forward priority 0; policy "

// nftForward is a table with one chain that drops what its rules leave.
func nftForward(rules string) string {
	return "table inet fw { chain forward" + forwardHook + "drop; " + rules + "\n}\n}\n"
}

var forwardCases = map[string]forwardCase{
	"policy alone":        {nftForward(""), problem.Error, "policy drops what goes from 10.244.1.7 (plainroute0) to 10.244.2.0/24 (eth0), new"},
	"by address":          {nftForward("ip saddr 10.244.0.0/16 accept"), problem.Error, "from 192.168.1.12 (eth0) to 10.244.1.7 (plainroute0), new"},
	"by all addresses":    {nftForward("ip saddr { 10.244.0.0/16, 192.168.1.0/24 } accept"), problem.None, ""},
	"to pods alone":       {nftForward("ip daddr 10.244.0.0/16 accept"), problem.Error, "from 10.244.1.7 (plainroute0) to 192.168.1.12 (eth0), new"},
	"not on this node":    {"table inet fw { chain f" + forwardHook + `accept; iifname "plainroute0" oifname "plainroute0" drop` + "\n}\n}\n", problem.Error, "from 10.244.1.7 (plainroute0) to 10.244.1.0/24 (plainroute0), new"},
	"no node's answers":   {"table inet fw { chain f" + forwardHook + `accept; ip saddr 192.168.1.0/24 ct state established drop` + "\n}\n}\n", problem.Error, "from 192.168.1.12 (eth0) to 10.244.1.7 (plainroute0), answer"},
	"one way":             {nftForward("ip saddr 10.244.1.0/24 accept"), problem.Error, "from 10.244.2.0/24 (eth0) to 10.244.1.7"},
	"both ways":           {nftForward("ip saddr 10.244.1.0/24 accept; ip daddr 10.244.1.0/24 accept"), problem.None, ""},
	"odd prefix":          {nftForward("ip saddr 10.240.0.0/13 accept; ip daddr 10.240.0.0/13 accept"), problem.None, ""},
	"another prefix":      {nftForward("ip saddr 10.96.0.0/12 accept"), problem.Error, ""},
	"inverted":            {nftForward("ip saddr != 10.96.0.0/12 accept"), problem.None, ""},
	"some of peers' pods": {nftForward("ip saddr { 10.244.1.0/24, 192.168.1.0/24 } accept; ip saddr 10.244.2.0/25 accept"), problem.Warning, "in forward"},
	"by device":           {nftForward(`iifname "plainroute0" accept; oifname "plainroute0" accept`), problem.None, ""},
	"by index":            {nftForward(`iif "plainroute0" accept; oif "plainroute0" accept`), problem.None, ""},
	"by another device":   {nftForward(`iifname "docker0" accept; oifname "docker0" accept`), problem.Error, ""},
	"by a device's start": {nftForward(`iifname "plain*" accept; iifname "eth*" accept`), problem.None, ""},
	"answers only":        {nftForward("ct state established,related accept"), problem.Error, "new"},
	"answers and ours":    {nftForward(`ct state established,related accept; iifname "plainroute0" accept`), problem.Error, "from 10.244.2.0/24"},
	"answers and new":     {nftForward("ct state established,related accept; ct state invalid drop; ct state new accept"), problem.None, ""},
	"new without answers": {nftForward("ct state new accept"), problem.Error, "answer"},
	"set of states":       {nftForward("ct state { established, new } accept"), problem.None, ""},
	"map of states":       {nftForward("ct state vmap { established : accept, invalid : drop, new : accept }"), problem.None, ""},
	"map without new":     {nftForward("ct state vmap { established : accept, invalid : drop }"), problem.Error, "new"},
	"map that jumps":      {"table inet fw { chain pods { ip daddr 10.244.2.0/24 return; accept\n}\nchain f" + forwardHook + "accept; ip saddr vmap { 10.244.1.0/24 : jump pods, 192.168.1.0/24 : goto pods }; ip daddr 10.244.2.0/24 drop\n}\n}\n", problem.Error, "from 10.244.1.7 (plainroute0) to 10.244.2.0/24 (eth0), new"},
	"set of prefixes":     {nftForward("ip saddr { 10.244.0.0/16, 192.168.0.0/16 } accept"), problem.None, ""},
	"set of others":       {nftForward("ip saddr { 10.96.0.0/12, 192.168.0.0/16 } accept"), problem.Error, ""},
	"set of devices":      {nftForward("iifname { plainroute0, eth0 } accept"), problem.None, ""},
	"range":               {nftForward("ip saddr 10.244.1.0-10.244.2.255 accept; ip saddr 192.168.1.0-192.168.1.20 accept"), problem.None, ""},
	"named set": {`table ip fw { set pods { type ipv4_addr; flags interval; elements = { 10.244.1.0/24, 10.244.2.0/24, 192.168.1.0/24 }
}
		chain f` + forwardHook + `drop; ip saddr @pods ip daddr @pods accept
}
}`, problem.None, ""},
	"port":        {nftForward("tcp dport 9 accept; meta l4proto udp accept"), problem.Warning, "the rule of handle"},
	"port of TCP": {nftForward("tcp dport 9 accept"), problem.Error, "policy drops what goes from 10.244.1.7 (plainroute0) to 10.244.2.0/24 (eth0), new, UDP"},
	"all of TCP":  {nftForward("meta l4proto tcp accept"), problem.Error, "new, UDP"},
	"bogons dropped early": {`table inet raw { chain pre { type filter hook prerouting priority raw; policy accept; iifname "eth0" ip saddr 10.0.0.0/8 drop
}
}`, problem.Error, "hook prerouting; policy accept; } with 1 rules: the rule of handle 2 in pre drops what goes from 10.244.2.0/24 (eth0) to 10.244.1.7"},
	"bogons dropped late": {`table ip mangle { chain post { type filter hook postrouting priority mangle; policy accept; oifname "eth0" ip saddr 10.0.0.0/8 drop
}
}`, problem.Error, "hook postrouting"},
	"what is early is no fault": {`table inet fw { chain pre { type filter hook prerouting priority mangle; policy accept; ct state invalid drop; meta nfproto ipv6 fib saddr . mark . iif oif missing drop; fib saddr . mark . iif oif missing drop; iifname "eth0" ip saddr 127.0.0.0/8 drop; meta mark 7 drop
}
}`, problem.None, ""},
	"nat is no filter": {`table ip nat { chain pre { type nat hook prerouting priority dstnat; policy accept; ip daddr 10.96.0.1 dnat to 10.244.2.9
}
}`, problem.None, ""},
	"TCP and UDP":    {nftForward("meta l4proto { tcp, udp } accept"), problem.None, ""},
	"UDP rejected":   {"table inet fw { chain f" + forwardHook + `accept; iifname "plainroute0" meta l4proto udp reject` + "\n}\n}\n", problem.Error, "from 10.244.1.7 (plainroute0) to 10.244.2.0/24 (eth0), new, UDP"},
	"UDP's answers":  {"table inet fw { chain f" + forwardHook + `accept; ip protocol udp ct state established drop` + "\n}\n}\n", problem.Error, "answer, UDP"},
	"port of UDP":    {"table inet fw { chain f" + forwardHook + `accept; udp dport 9 drop` + "\n}\n}\n", problem.None, ""},
	"port dropped":   {nftForward("tcp dport 9 drop; accept"), problem.None, ""},
	"other protocol": {nftForward("meta l4proto udp accept"), problem.Error, ""},
	"mark":           {nftForward("meta mark 7 accept"), problem.Warning, ""},
	"mark drops":     {"table ip fw { chain f" + forwardHook + "accept; meta mark != 0x7 drop\n}\n}\n", problem.Warning, "the rule of handle"},
	"sets a mark":    {nftForward("meta mark set 7 accept"), problem.None, ""},
	"last rule":      {"table inet fw { chain f" + forwardHook + "accept; ip daddr 10.244.0.0/16 accept; ip daddr 192.168.0.0/16 accept; counter reject\n}\n}\n", problem.None, ""},
	"last rule cuts": {"table inet fw { chain f" + forwardHook + "accept; ip daddr 10.96.0.0/16 accept; counter reject\n}\n}\n", problem.Error, "the rule of handle"},
	"pods of late":   {"table inet fw { chain f" + forwardHook + "accept; ip daddr 10.244.1.0/24 drop; ip daddr 10.244.0.0/16 accept\n}\n}\n", problem.Error, ""},
	"jump":           {"table inet fw { chain pods { ip saddr 10.244.0.0/16 accept; ip saddr 192.168.0.0/16 accept\n}\nchain f" + forwardHook + "drop; jump pods\n}\n}\n", problem.None, ""},
	"jump returns":   {"table inet fw { chain pods { ip saddr 10.244.2.0/24 return; accept\n}\nchain f" + forwardHook + "drop; jump pods\n}\n}\n", problem.Error, ""},
	"goto":           {"table inet fw { chain pods { ip saddr 10.96.0.0/12 accept\n}\nchain f" + forwardHook + "drop; goto pods; accept\n}\n}\n", problem.Error, ""},
	"goto from jump": {"table inet fw { chain b { ct state invalid drop\n}\nchain a { goto b; drop\n}\nchain f" + forwardHook + "drop; jump a; accept\n}\n}\n", problem.None, ""},
	"two chains":     {nftForward("accept") + " table ip other { chain f" + forwardHook + "drop; ct state established accept\n}\n}\n", problem.Error, "chain ip other f"},
	"IPv6 alone":     {"table ip6 fw { chain f" + forwardHook + "drop\n}\n}\n", problem.None, ""},
	"kube-proxy's": {`table ip kube-proxy { map no-endpoint-services { type ipv4_addr . inet_proto . inet_service : verdict; elements = { 10.96.0.10 . tcp . 53 : goto reject-chain }
}
		set cluster-ips { type ipv4_addr; elements = { 10.96.0.1, 10.96.0.10 }
}
		chain reject-chain { reject; }
		chain service-endpoints-check { ip daddr . meta l4proto . th dport vmap @no-endpoint-services; }
		chain cluster-ips-check { ip daddr @cluster-ips reject; }
		chain filter-forward { type filter hook forward priority -110; policy accept; ct state new jump service-endpoints-check; ct state new jump cluster-ips-check
}
}`, problem.None, ""},
	"firewalld's": {`table inet firewalld { chain ZONES { iifname "eth0" goto PUBLIC; goto PUBLIC; }
		chain PUBLIC { jump ALLOW; meta l4proto { icmp, ipv6-icmp } accept; }
		chain ALLOW { ip saddr 10.244.0.0/16 accept; ip saddr 192.168.1.0/24 accept; }
		chain filter_FORWARD { type filter hook forward priority 10; policy accept; ct state { established, related } accept; ct status dnat accept; iifname "lo" accept; jump ZONES; ct state invalid drop; reject with icmpx admin-prohibited
}
}`, problem.None, ""},
	"iptables' policy":        {"*filter\n:FORWARD DROP\nCOMMIT", problem.Error, "policy"},
	"iptables by address":     {"*filter\n:FORWARD DROP\n-A FORWARD -s 10.244.1.0/24 -j ACCEPT\n-A FORWARD -d 10.244.1.0/24 -j ACCEPT\nCOMMIT", problem.None, ""},
	"iptables last rule":      {"*filter\n:FORWARD ACCEPT\n-A FORWARD -s 10.96.0.0/12 -j ACCEPT\n-A FORWARD -j REJECT --reject-with icmp-host-prohibited\nCOMMIT", problem.Error, "drops what goes"},
	"iptables last rule drop": {"*filter\n:FORWARD ACCEPT\n-A FORWARD -s 10.96.0.0/12 -j ACCEPT\n-A FORWARD -j DROP\nCOMMIT", problem.Error, "drops what goes"},
	"iptables last rule late": {"*filter\n:FORWARD ACCEPT\n-A FORWARD -s 10.244.0.0/16 -j ACCEPT\n-A FORWARD -s 192.168.0.0/16 -j ACCEPT\n-A FORWARD -j REJECT\nCOMMIT", problem.None, ""},
	"iptables inverted":       {"*filter\n:FORWARD ACCEPT\n-A FORWARD -i plainroute0 ! -s 10.244.0.0/16 -j DROP\n-A FORWARD ! -i plainroute0 ! -o plainroute0 -j DROP\nCOMMIT", problem.None, ""},
	"iptables inverted state": {"*filter\n:FORWARD ACCEPT\n-A FORWARD -m conntrack ! --ctstate ESTABLISHED -j DROP\nCOMMIT", problem.Error, "new"},
	"iptables device's start": {"*filter\n:FORWARD DROP\n-A FORWARD -i plain+ -j ACCEPT\n-A FORWARD -i eth+ -j ACCEPT\nCOMMIT", problem.None, ""},
	"iptables other protocol": {"*filter\n:FORWARD DROP\n-A FORWARD -p udp -j ACCEPT\nCOMMIT", problem.Error, ""},
	"iptables any port":       {"*filter\n:FORWARD DROP\n-A FORWARD -p tcp -j ACCEPT\n-A FORWARD -p udp -j ACCEPT\nCOMMIT", problem.None, ""},
	"iptables TCP alone":      {"*filter\n:FORWARD DROP\n-A FORWARD -p tcp -j ACCEPT\nCOMMIT", problem.Error, "new, UDP"},
	"iptables port":           {"*filter\n:FORWARD DROP\n-A FORWARD -p tcp --dport 9 -j ACCEPT\n-A FORWARD -p udp -j ACCEPT\nCOMMIT", problem.Warning, ""},
	"iptables port of UDP":    {"*filter\n:FORWARD DROP\n-A FORWARD -p udp --dport 9 -j ACCEPT\n-A FORWARD -p tcp -j ACCEPT\nCOMMIT", problem.Warning, ""},
	"iptables UDP dropped":    {"*filter\n:FORWARD ACCEPT\n-A FORWARD -p udp -j REJECT\nCOMMIT", problem.Error, "new, UDP"},
	"iptables port dropped":   {"*filter\n:FORWARD ACCEPT\n-A FORWARD -p tcp --dport 9 -j DROP\nCOMMIT", problem.None, ""},
	"iptables logs":           {"*filter\n:FORWARD DROP\n-A FORWARD -m comment --comment why -j LOG\n-A FORWARD -m comment --comment why -j ACCEPT\nCOMMIT", problem.None, ""},
	"iptables mark":           {"*filter\n:FORWARD DROP\n-A FORWARD -m mark --mark 7 -j ACCEPT\nCOMMIT", problem.Warning, ""},
	"iptables goto":           {"*filter\n:FORWARD ACCEPT\n:PODS - [0:0]\n-A FORWARD -s 10.244.1.0/24 -g PODS\n-A FORWARD -s 10.244.1.0/24 -j DROP\n-A PODS -d 10.96.0.0/12 -j DROP\nCOMMIT", problem.None, ""},
	"iptables return":         {"*filter\n:FORWARD DROP\n:PODS - [0:0]\n-A FORWARD -j PODS\n-A PODS -s 10.244.1.0/24 -j RETURN\n-A PODS -j ACCEPT\nCOMMIT", problem.Error, "from 10.244.1.7"},
	"iptables fragments":      {"*filter\n:FORWARD ACCEPT\n-A FORWARD -f -j DROP\nCOMMIT", problem.None, ""},
	"docker's": {`*filter
:FORWARD DROP
:DOCKER - [0:0]
:DOCKER-USER - [0:0]
:DOCKER-ISOLATION-STAGE-1 - [0:0]
:DOCKER-ISOLATION-STAGE-2 - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-ISOLATION-STAGE-1
-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -o docker0 -j DOCKER
-A FORWARD -i docker0 ! -o docker0 -j ACCEPT
-A FORWARD -i docker0 -o docker0 -j ACCEPT
-A DOCKER-ISOLATION-STAGE-1 -i docker0 ! -o docker0 -j DOCKER-ISOLATION-STAGE-2
-A DOCKER-ISOLATION-STAGE-1 -j RETURN
-A DOCKER-ISOLATION-STAGE-2 -o docker0 -j DROP
-A DOCKER-ISOLATION-STAGE-2 -j RETURN
-A DOCKER-USER -j RETURN
COMMIT`, problem.Error, "policy"},
	"docker's with ours": {`*filter
:FORWARD DROP
:DOCKER-USER - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -i docker0 -j ACCEPT
-A DOCKER-USER -s 10.244.0.0/16 -j ACCEPT
-A DOCKER-USER -s 192.168.1.0/24 -j ACCEPT
-A DOCKER-USER -j RETURN
COMMIT`, problem.None, ""},
	"firewall plugin's": {pluginRules + "COMMIT", problem.Error, "from 10.244.2.0/24 (eth0) to 10.244.1.7"},
	"firewall plugin's and one rule more": {pluginRules + `-A CNI-ADMIN -d 10.244.1.0/24 -j ACCEPT
COMMIT`, problem.None, ""},
}

// pluginRules are the rules of the stock plugin firewall for the pod.
const pluginRules = `*filter
:FORWARD DROP
:CNI-ADMIN - [0:0]
:CNI-FORWARD - [0:0]
-A FORWARD -m comment --comment "CNI firewall plugin rules" -j CNI-FORWARD
-A CNI-FORWARD -m comment --comment "CNI firewall plugin admin overrides" -j CNI-ADMIN
-A CNI-FORWARD -d 10.244.1.7/32 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A CNI-FORWARD -s 10.244.1.7/32 -j ACCEPT
`
