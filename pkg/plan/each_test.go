package plan

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/plainroute/plainroute/pkg/topology"
)

// A lone change is one of each step, with its expected texts.
type lone struct {
	change  Change
	key     string // in the words of Key.String
	command string
	removes bool // it waits where removals wait
}

var (
	aPrefix  = netip.MustParsePrefix("10.244.7.0/24")
	anAddr   = netip.MustParseAddr("192.168.1.7")
	aRoute   = topology.Route{Dst: aPrefix, Via: anAddr, Dev: "eth0", Protocol: topology.Protocol, Metric: topology.PeerMetric(aPrefix)}
	aDevice  = topology.Device{Name: "plainroute0", MAC: "0a:58:00:00:00:01", MTU: 1500, Up: true}
	anOrigin = topology.Address{Dev: "plainroute0", Prefix: netip.MustParsePrefix("10.244.7.1/24")}
	aTunnel  = topology.Tunnel{Name: topology.Tunnel4, VNI: 112, Port: 4789, Local: anAddr, MAC: topology.TunnelMAC(aPrefix), MTU: 1450, Up: true}

	aNeighbor = topology.Neighbor{Dev: topology.Tunnel4, Addr: subnet(8).Addr(), MAC: topology.TunnelMAC(subnet(8))}
	anEntry   = topology.FDBEntry{Dev: topology.Tunnel4, MAC: topology.TunnelMAC(subnet(8)), Dst: anAddr}

	aTable = &topology.Masquerade{Bridge: "plainroute0"}
)

// lones has a change of each step, in the order in which they are made. Each pair of them is in
// this order: why, the comments of the table in diff.go say.
var lones = []lone{
	{Change{Add, Bridge{aDevice}}, "bridge plainroute0", "ip link add plainroute0 address 0a:58:00:00:00:01 mtu 1500 type bridge", false},
	{Change{Add, Table{aTable}}, "nftables table plainroute", "nft -f - <<'EOF'\n" + aTable.Ruleset() + "EOF", false},
	{Change{Replace, Table{aTable}}, "nftables table plainroute", "nft -f - <<'EOF'\n" + aTable.Ruleset() + "EOF", false},
	{
		Change{Add, Sets{&SetChange{DeleteNodes: []netip.Addr{netip.MustParseAddr("fd00::7")}, AddNodes: []netip.Addr{anAddr}}}},
		"nftables table plainroute",
		"nft delete element inet plainroute nodes6 { fd00::7 }; add element inet plainroute nodes4 { 192.168.1.7 }", false,
	},
	{
		Change{Add, Tunnel{Tunnel: aTunnel}},
		"tunnel plainroute-v4",
		"ip link add plainroute-v4 address 02:18:0a:f4:07:00 mtu 1450 type vxlan id 112 local 192.168.1.7 dstport 4789 nolearning && ip link set plainroute-v4 alias plainroute up", false,
	},
	{
		Change{Replace, Tunnel{aTunnel, aTunnel}},
		"tunnel plainroute-v4",
		"ip link set plainroute-v4 address 02:18:0a:f4:07:00 mtu 1450 up type vxlan id 112 local 192.168.1.7", false,
	},
	{Change{Replace, MTU{"plainroute0", 1500}}, "device plainroute0", "ip link set dev plainroute0 mtu 1500", false},
	{Change{Replace, Sysctl{"net/ipv4/ip_forward", "1"}}, "sysctl net/ipv4/ip_forward", "sysctl -w net/ipv4/ip_forward=1", false},
	{Change{Replace, Device{aDevice}}, "device plainroute0", "ip link set dev plainroute0 up", false},
	{Change{Add, Address{anOrigin}}, "address 10.244.7.1/24 dev plainroute0", "ip address add 10.244.7.1/24 dev plainroute0", false},
	{Change{Add, Neighbor{aNeighbor}}, "neighbor 10.244.8.0 dev plainroute-v4", "ip neighbor replace 10.244.8.0 lladdr 02:18:0a:f4:08:00 dev plainroute-v4 nud permanent", false},
	{Change{Replace, Neighbor{aNeighbor}}, "neighbor 10.244.8.0 dev plainroute-v4", "ip neighbor replace 10.244.8.0 lladdr 02:18:0a:f4:08:00 dev plainroute-v4 nud permanent", false},
	{Change{Add, FDBEntry{anEntry}}, "FDB entry 02:18:0a:f4:08:00 dev plainroute-v4", "bridge fdb replace 02:18:0a:f4:08:00 dev plainroute-v4 dst 192.168.1.7", false},
	{Change{Replace, FDBEntry{anEntry}}, "FDB entry 02:18:0a:f4:08:00 dev plainroute-v4", "bridge fdb replace 02:18:0a:f4:08:00 dev plainroute-v4 dst 192.168.1.7", false},
	{Change{Add, Route{Route: aRoute}}, "route 10.244.7.0/24", "ip route add 10.244.7.0/24 via 192.168.1.7 dev eth0 proto 112 metric 2297", false},
	{Change{Replace, Route{Route: aRoute}}, "route 10.244.7.0/24", "ip route replace 10.244.7.0/24 via 192.168.1.7 dev eth0 proto 112 metric 2297", false},
	{Change{Delete, Route{Route: aRoute}}, "route 10.244.7.0/24", "ip route delete 10.244.7.0/24 via 192.168.1.7 dev eth0 proto 112 metric 2297", true},
	{
		Change{Delete, StrayRoute{topology.TableRoute{Route: aRoute, Table: 254}}},
		"route 10.244.7.0/24 via 192.168.1.7 dev eth0 proto 112 metric 2297 table 254",
		"ip route delete 10.244.7.0/24 via 192.168.1.7 dev eth0 proto 112 metric 2297 table 254", true,
	},
	{Change{Delete, FDBEntry{anEntry}}, "FDB entry 02:18:0a:f4:08:00 dev plainroute-v4", "bridge fdb delete 02:18:0a:f4:08:00 dev plainroute-v4 dst 192.168.1.7", true},
	{Change{Delete, Neighbor{aNeighbor}}, "neighbor 10.244.8.0 dev plainroute-v4", "ip neighbor delete 10.244.8.0 dev plainroute-v4", true},
	{Change{Delete, Address{anOrigin}}, "address 10.244.7.1/24 dev plainroute0", "ip address delete 10.244.7.1/24 dev plainroute0", true},
	{Change{Delete, Tunnel{Tunnel: aTunnel}}, "tunnel plainroute-v4", "ip link delete plainroute-v4", true},
	{Change{Delete, Bridge{topology.Device{Name: "plainroute0"}}}, "bridge plainroute0", "ip link delete plainroute0", true},
	{
		Change{Delete, Sets{&SetChange{DeleteCluster: []netip.Prefix{aPrefix, netip.MustParsePrefix("fd00::/64")}, AddCluster: []netip.Prefix{subnet(8)}}}},
		"nftables table plainroute",
		"nft delete element inet plainroute cluster4 { 10.244.7.0/24 }; delete element inet plainroute cluster6 { fd00::/64 }; add element inet plainroute cluster4 { 10.244.8.0/24 }", true,
	},
	{Change{Delete, Table{aTable}}, "nftables table plainroute", "nft delete table inet plainroute", true},
	{Change{Add, Config{&topology.CNI{}}}, "CNI config 10-plainroute.conflist", "cat >10-plainroute.conflist", false},
	{Change{Replace, Config{&topology.CNI{}}}, "CNI config 10-plainroute.conflist", "cat >10-plainroute.conflist", false},
	{Change{Delete, Config{&topology.CNI{}}}, "CNI config 10-plainroute.conflist", "rm 10-plainroute.conflist", true},
}

// Each step has a row, in its place, and is seen by all that looks at Changes.
func TestEachChangeAlone(t *testing.T) {
	if len(lones) != len(order) {
		t.Errorf("there are %d rows of %d steps", len(lones), len(order))
	}
	for i, l := range lones {
		name := l.change.String()
		if got := l.change.rank(); got != i {
			t.Errorf("%s is made as number %d, want %d", name, got, i)
		}
		c := Changes{l.change}
		keys := c.Keys()
		if len(keys) != 1 || keys[0].String() != l.key || keys[0] != l.change.Key() {
			t.Errorf("%s: keys are %v, want %s", name, keys, l.key)
		}
		if name != l.command {
			t.Errorf("the command is %q, want %q", name, l.command)
		}
		kind := l.change.Kind()
		for what, is := range map[string][2]bool{
			"empty":                           {c.Empty(), false},
			"of its kind":                     {c.Has(kind), true},
			"of another kind":                 {c.Has("other"), false},
			"removing":                        {c.Removes(), l.removes},
			"empty without removals":          {c.WithoutRemovals().Empty(), l.removes},
			"empty without its kind":          {c.Except(kind).Empty(), true},
			"empty but for its kind":          {c.Only(kind).Empty(), false},
			"empty but for another":           {c.Only("other").Empty(), true},
			"empty without another":           {c.Except("other").Empty(), false},
			"empty less itself":               {c.Minus(c).Empty(), true},
			"empty less nothing":              {c.Minus(nil).Empty(), false},
			"empty without its key":           {c.Without(func(k Key) bool { return k == keys[0] }).Empty(), true},
			"empty without other keys":        {c.Without(func(k Key) bool { return k != keys[0] }).Empty(), false},
			"changed where no device is made": {l.change.makes() == "" || c.WithoutDevice(l.change.makes()).Empty(), true},
		} {
			if is[0] != is[1] {
				t.Errorf("%s is %s: %v, want %v", name, what, is[0], is[1])
			}
		}
	}
}

// Changes that come together are made in the order of the table, and changes of one step stay in
// theirs.
func TestOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		drawn := rapid.SliceOfN(rapid.IntRange(0, len(lones)-1), 0, 30).Draw(t, "steps")
		var c Changes
		for i, n := range drawn {
			x := lones[n].change
			if s, ok := x.Object.(Sysctl); ok {
				s.Value = fmt.Sprint(i)
				x.Object = s
			}
			c = c.With(x)
		}
		before, rest := c.BeforeRoutes()
		if !slices.Equal(c, slices.Concat(before, rest)) || slices.ContainsFunc(before, func(x Change) bool { return x.Kind() == KindRoute || x.Op == Delete }) {
			t.Fatalf("before the routes come %v, then %v", before, rest)
		}
		last := -1
		var stepped Changes
		for s := range c.Steps() {
			rank := s[0].rank()
			if rank <= last || slices.ContainsFunc(s, func(x Change) bool { return x.rank() != rank }) {
				t.Fatalf("%v is made after step %d", s, last)
			}
			last = rank
			stepped = append(stepped, s...)
		}
		if !slices.Equal(c, stepped) || len(c) != len(drawn) {
			t.Fatalf("the steps are %v of %v", stepped, c)
		}
		value := -1
		for _, s := range Objects[Sysctl](c, Replace) {
			n, err := strconv.Atoi(s.Value)
			if err != nil || n <= value {
				t.Fatalf("settings lost their order: %v", c)
			}
			value = n
		}
	})
}

// Each sort of change of a set by itself is one, and two don't make up for each other.
func TestEachSetChangeAlone(t *testing.T) {
	for _, s := range []SetChange{
		{AddCluster: []netip.Prefix{aPrefix}},
		{DeleteCluster: []netip.Prefix{aPrefix}},
		{AddNodes: []netip.Addr{anAddr}},
		{AddEndpoints: []netip.Addr{anAddr}},
		{DeleteEndpoints: []netip.Addr{anAddr}},
		{DeleteEndpoints: []netip.Addr{anAddr}, AddEndpoints: []netip.Addr{anAddr}},
		{AddNodes: []netip.Addr{anAddr}, DeleteEndpoints: []netip.Addr{anAddr}},
		{DeleteNodes: []netip.Addr{anAddr}},
		{AddCluster: []netip.Prefix{aPrefix}, DeleteCluster: []netip.Prefix{aPrefix}},
		{AddCluster: []netip.Prefix{aPrefix}, DeleteNodes: []netip.Addr{anAddr}},
		{AddCluster: []netip.Prefix{aPrefix}, AddNodes: []netip.Addr{anAddr}},
		{DeleteNodes: []netip.Addr{anAddr}, AddNodes: []netip.Addr{anAddr}},
	} {
		if s.Empty() {
			t.Errorf("%+v counts as empty", s)
		}
	}
	if !(SetChange{}).Empty() {
		t.Error("nothing counts as a change")
	}
}

// A repair of each sort is named by the key of what is repaired, and is none where another thing
// was asked for before.
func TestEachRepairIsNamed(t *testing.T) {
	table := &topology.Masquerade{Bridge: "plainroute0", Sources: []netip.Prefix{aPrefix}, Cluster: []netip.Prefix{aPrefix}, Nodes: []netip.Addr{anAddr}}
	desired := topology.State{
		Sysctls: map[string]string{"net/ipv4/ip_forward": "1"}, Bridge: "plainroute0", Devices: []topology.Device{aDevice},
		Addresses: []topology.Address{anOrigin}, Routes: []*topology.Route{&aRoute}, Masquerade: table, CNI: &topology.CNI{Bridge: "plainroute0"},
		Tunnels: []topology.Tunnel{aTunnel}, Neighbors: []topology.Neighbor{aNeighbor}, FDB: []topology.FDBEntry{anEntry},
	}
	repairs := Diff(desired, topology.State{}).Repairs(desired, desired)
	var names []string
	for _, k := range repairs {
		names = append(names, k.String())
	}
	slices.Sort(names)
	want := []string{
		"CNI config 10-plainroute.conflist", "FDB entry 02:18:0a:f4:08:00 dev plainroute-v4", "address 10.244.7.1/24 dev plainroute0", "bridge plainroute0", "device plainroute0",
		"neighbor 10.244.8.0 dev plainroute-v4", "nftables table plainroute", "route 10.244.7.0/24", "sysctl net/ipv4/ip_forward", "tunnel plainroute-v4",
	}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Errorf("repairs (-want +got):\n%s", diff)
	}
	if taken := Diff(topology.State{}, desired).Repairs(topology.State{}, topology.State{}); !slices.ContainsFunc(taken, func(k Key) bool { return k == Key{KindBridge, "plainroute0"} }) {
		t.Errorf("of what is taken away again only %v are repairs", taken)
	}
	if anew := Diff(desired, topology.State{}).Repairs(topology.State{}, desired); len(anew) > 0 {
		t.Errorf("what was asked for now for the first time counts as repaired: %v", anew)
	}
}

// Our own subnet's route and a peer's to the same subnet have keys of their own.
func TestOwnRouteHasAKeyOfItsOwn(t *testing.T) {
	own := aRoute
	own.Metric = topology.MetricOwn
	if got := (Change{Add, Route{Route: own}}).Key().String(); got != "route unreachable 10.244.7.0/24" {
		t.Errorf("the key is %q", got)
	}
}

// Keys are in order by kind, then by name.
func TestKeysAreInOrder(t *testing.T) {
	all := []Key{{KindRoute, "b"}, {KindBridge, "z"}, {KindRoute, "a"}}
	slices.SortFunc(all, Key.Compare)
	if want := []Key{{KindBridge, "z"}, {KindRoute, "a"}, {KindRoute, "b"}}; !slices.Equal(all, want) {
		t.Errorf("got %v", all)
	}
}

// A replaced table has the rules that are desired and the elements of both.
func TestTableWrittenAnewIsWide(t *testing.T) {
	egress := []topology.Egress{{Dev: "eth0", Addr: anAddr}}
	desired := &topology.Masquerade{Bridge: "plainroute0", Sources: []netip.Prefix{aPrefix}, Egress: egress, Cluster: []netip.Prefix{aPrefix}}
	actual := &topology.Masquerade{
		Bridge: "plainroute0", Sources: []netip.Prefix{aPrefix}, Cluster: []netip.Prefix{netip.MustParsePrefix("10.244.9.0/24")}, Nodes: []netip.Addr{anAddr},
	}
	c := Diff(topology.State{Masquerade: desired}, topology.State{Masquerade: actual})
	want := Changes{
		{Replace, Table{&topology.Masquerade{
			Bridge: "plainroute0", Sources: []netip.Prefix{aPrefix}, Egress: egress,
			Cluster: []netip.Prefix{aPrefix, netip.MustParsePrefix("10.244.9.0/24")}, Nodes: []netip.Addr{anAddr},
		}}},
		{Delete, Sets{&SetChange{DeleteCluster: []netip.Prefix{netip.MustParsePrefix("10.244.9.0/24")}, DeleteNodes: []netip.Addr{anAddr}}}},
	}
	if diff := cmp.Diff(want, c, alike...); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// Kept elements join a table that has sets, and no other.
func TestKeptElementsNeedATable(t *testing.T) {
	kept := Of(Delete, Sets{&SetChange{DeleteCluster: []netip.Prefix{netip.MustParsePrefix("10.244.9.0/24")}}}).Removed()
	table := topology.Masquerade{Sources: []netip.Prefix{aPrefix}, Cluster: []netip.Prefix{aPrefix}}
	for name, c := range map[string]struct{ before, after *topology.Masquerade }{
		"none":    {nil, nil},
		"no sets": {&topology.Masquerade{Bridge: "plainroute0"}, &topology.Masquerade{Bridge: "plainroute0"}},
		"sets": {&table, &topology.Masquerade{
			Sources: []netip.Prefix{aPrefix}, Cluster: []netip.Prefix{aPrefix, netip.MustParsePrefix("10.244.9.0/24")},
		}},
		"the same": {&topology.Masquerade{Sources: []netip.Prefix{aPrefix}, Cluster: kept.Masquerade.Cluster}, &topology.Masquerade{
			Sources: []netip.Prefix{aPrefix}, Cluster: kept.Masquerade.Cluster,
		}},
	} {
		got := Joined(topology.State{Masquerade: c.before}, kept)
		if diff := cmp.Diff(c.after, got.Masquerade, alike...); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// The difference by one object is one change of it, or a few.
func TestEachDiff(t *testing.T) {
	conf, other := &topology.CNI{Bridge: "b", MTU: 1500, Subnets: []netip.Prefix{aPrefix}}, &topology.CNI{Bridge: "b", MTU: 1400}
	small, far := aDevice, aRoute
	small.MTU, far.Via = 1200, netip.MustParseAddr("192.168.1.9")
	devices := func(d topology.Device) topology.State {
		return topology.State{Bridge: d.Name, Devices: []topology.Device{d}}
	}
	for name, c := range map[string]struct {
		desired, actual topology.State
		want            Changes
		words           string
	}{
		"a config":           {topology.State{CNI: conf}, topology.State{}, Changes{{Add, Config{conf}}}, "10-plainroute.conflist: subnets [10.244.7.0/24], MTU 1500"},
		"another config":     {topology.State{CNI: conf}, topology.State{CNI: other}, Changes{{Replace, Config{conf}}}, "10-plainroute.conflist: subnets [10.244.7.0/24], MTU 1500"},
		"no config":          {topology.State{}, topology.State{CNI: other}, Changes{{Delete, Config{other}}}, "10-plainroute.conflist: subnets [], MTU 1400"},
		"a table":            {topology.State{Masquerade: aTable}, topology.State{}, Changes{{Add, Table{aTable}}}, "inet plainroute"},
		"no table":           {topology.State{}, topology.State{Masquerade: aTable}, Changes{{Delete, Table{aTable}}}, "inet plainroute"},
		"a bridge":           {devices(aDevice), topology.State{}, Changes{{Add, Bridge{aDevice}}, {Replace, Device{aDevice}}}, "plainroute0"},
		"a bridge of an MTU": {devices(aDevice), devices(small), Changes{{Replace, MTU{"plainroute0", 1500}}, {Replace, Device{aDevice}}}, "dev plainroute0 mtu 1500"},
		"another route":      {topology.State{Routes: []*topology.Route{&aRoute}}, topology.State{Routes: []*topology.Route{&far}}, Changes{{Replace, Route{Route: aRoute}}}, aRoute.String()},
		"a setting":          {topology.State{Sysctls: map[string]string{"a": "1"}}, topology.State{Sysctls: map[string]string{"a": "0"}}, Changes{{Replace, Sysctl{"a", "1"}}}, "a=1"},
	} {
		got := Diff(c.desired, c.actual)
		if !slices.Equal(got, c.want) || got[0].Object.String() != c.words {
			t.Errorf("%s: %v, %s", name, got, got[0].Object)
		}
		for _, x := range got {
			if !x.Object.same(c.desired, c.desired) || x.Object.same(c.actual, c.desired) {
				t.Errorf("%s: %s is asked for by both, or not by the same", name, x)
			}
		}
	}
	if got := (Config{}).String(); got != "10-plainroute.conflist" {
		t.Errorf("a config of which nothing is known is %q", got)
	}
}

// Kinds have labels of one word.
func TestKinds(t *testing.T) {
	var labels []string
	for _, k := range Kinds() {
		labels = append(labels, k.Label())
	}
	if want := []string{"device", "table", "tunnel", "device", "sysctl", "address", "neighbor", "fdb", "route", "cni"}; !slices.Equal(labels, want) {
		t.Errorf("got %v", labels)
	}
}

// Routes that are added and replaced go in, and those that are deleted do not; Objects picks by
// type and operation.
func TestObjects(t *testing.T) {
	c := Of(Add, Route{Route: aRoute}, Address{anOrigin}).With(Of(Delete, Route{Route: aRoute})...)
	if got := Objects[Route](c, Add); !slices.Equal(got, []Route{{Route: aRoute}}) {
		t.Errorf("added are %v", got)
	}
	if got := Objects[Route](c, Add, Delete); len(got) != 2 {
		t.Errorf("added and deleted are %v", got)
	}
	if !c[1].putsRoute() || c[0].putsRoute() || c[2].putsRoute() {
		t.Errorf("of %v some put a route", c)
	}
}

// A tunnel is changed in place, or recreated, of which its command and what it loses with it follow.
func TestTunnelIsRecreated(t *testing.T) {
	for name, c := range map[string]struct {
		change   func(*topology.Tunnel)
		recreate bool
	}{
		"MTU":     {func(t *topology.Tunnel) { t.MTU = 1400 }, false},
		"MAC":     {func(t *topology.Tunnel) { t.MAC = topology.MAC{2} }, false},
		"down":    {func(t *topology.Tunnel) { t.Up = false }, false},
		"local":   {func(t *topology.Tunnel) { t.Local = netip.MustParseAddr("192.168.1.8") }, false},
		"VNI":     {func(t *topology.Tunnel) { t.VNI = 7 }, true},
		"port":    {func(t *topology.Tunnel) { t.Port = 8472 }, true},
		"name":    {func(t *topology.Tunnel) { t.Name = "other" }, true},
		"setting": {func(t *topology.Tunnel) { t.Odd = "learning" }, true},
	} {
		was := aTunnel
		c.change(&was)
		changes := Diff(topology.State{Tunnels: []topology.Tunnel{aTunnel}}, topology.State{Tunnels: []topology.Tunnel{was}})
		want := Change{Replace, Tunnel{aTunnel, was}}
		if len(changes) != 1 || changes[0] != want || (want.makes() != "") != c.recreate {
			t.Errorf("%s: %v, which makes %q", name, changes, want.makes())
		}
		if recreates := strings.HasPrefix(want.String(), "ip link delete "+was.Name+" && ip link add "); recreates != c.recreate {
			t.Errorf("%s: %s", name, want)
		}
	}
}
