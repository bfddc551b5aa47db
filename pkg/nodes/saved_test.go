package nodes

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/uuid"

	"github.com/plainroute/plainroute/pkg/topology"
	"github.com/plainroute/plainroute/test/apiserver"
)

var (
	someone = Identity{Version: "1.0.0 abc", Cluster: "c0ffee", Node: "node1", Ignored: "a=b"}
	savedAt = time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
)

// savedView returns a view with all that a Node can have.
func savedView() *Saved {
	v := &Saved{
		Identity: someone, Time: savedAt, ResourceVersion: "12",
		Own:  &OwnState{UID: "1", NetworkUnavailable: corev1.ConditionTrue, Reason: "r", NoNetwork: true, Taints: []Taint{{"k", "NoSchedule"}}},
		bare: map[string]string{"bare": "7"},
	}
	invalid := apiserver.NewNode("invalid", "10.244.9.0/24", "no/prefix", "no address")
	for i, n := range []*corev1.Node{apiserver.Node1(), apiserver.Peer(2), apiserver.NewNode("bare"), invalid} {
		n.UID, n.CreationTimestamp.Time = types.UID(fmt.Sprint("uid", i)), savedAt.Add(-time.Hour).In(time.FixedZone("", 3600))
		v.Nodes = append(v.Nodes, topology.NodeFrom(n))
	}
	addr := netip.MustParseAddr("192.168.1.12")
	v.Grants = []topology.Grant{
		{Subnet: netip.MustParsePrefix("10.244.2.0/24"), Node: "node2", UID: "uid1", Addr: addr, Via: addr, HadRoute: true},
		{Subnet: netip.MustParsePrefix("fd00::/64"), Node: "invalid", UID: "uid3"},
	}
	return v
}

func encoded(t testing.TB, v *Saved) []byte {
	t.Helper()
	file, err := v.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return file
}

var sameSaved = []cmp.Option{cmp.AllowUnexported(Saved{}), cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})}

func TestSavedViewIsDecoded(t *testing.T) {
	want := savedView()
	if len(want.Nodes[3].Problems) != 2 {
		t.Fatalf("the invalid Node has the Problems %v", want.Nodes[3].Problems)
	}
	got, err := Decode(encoded(t, want), someone, savedAt.Add(savedMaxAge))
	if diff := cmp.Diff(want, got, sameSaved...); err != nil || diff != "" {
		t.Errorf("%v, with another view:\n%s", err, diff)
	}
}

// Grants of Nodes that are gone, or made again, are not even saved.
func TestGrantsOfOthersAreNotSaved(t *testing.T) {
	v := savedView()
	v.Grants[0].UID = "another"
	v.Grants[1].Node = "gone"
	if got, err := Decode(encoded(t, v), someone, savedAt); err != nil || len(got.Grants) > 0 {
		t.Errorf("%v, with the grants %v", err, got.Grants)
	}
}

func TestSavedViewIsRefused(t *testing.T) {
	other := func(edit func(*Identity)) Identity {
		id := someone
		edit(&id)
		return id
	}
	file := encoded(t, savedView())
	noVersion := savedView()
	noVersion.ResourceVersion = ""
	for name, c := range map[string]struct {
		file     []byte
		identity Identity
		now      time.Time
		want     string
	}{
		"empty":                     {nil, someone, savedAt, "another format"},
		"another format":            {[]byte(strings.Replace(string(file), "nodes 1", "nodes 2", 1)), someone, savedAt, "another format"},
		"the magic alone":           {file[:len(savedMagic)], someone, savedAt, "damaged"},
		"cut short":                 {file[:len(file)-1], someone, savedAt, "damaged"},
		"longer":                    {append(slices.Clone(file), 0), someone, savedAt, "damaged"},
		"another version":           {file, other(func(i *Identity) { i.Version = "1.0.1" }), savedAt, "version 1.0.0 abc wrote it"},
		"another cluster":           {file, other(func(i *Identity) { i.Cluster = "decaf" }), savedAt, "another cluster"},
		"another Node":              {file, other(func(i *Identity) { i.Node = "node2" }), savedAt, "the Node's name"},
		"another selector":          {file, other(func(i *Identity) { i.Ignored = "" }), savedAt, "selector"},
		"older than a day":          {file, someone, savedAt.Add(savedMaxAge + 1), "more than a day ago"},
		"from the future":           {file, someone, savedAt.Add(-1), "in the future"},
		"without a resourceVersion": {encoded(t, noVersion), someone, savedAt, "no resource version"},
	} {
		if v, err := Decode(c.file, c.identity, c.now); err == nil || v != nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want an error with %q", name, err, c.want)
		}
	}
}

// Whatever bit is wrong, the file is refused.
func TestDamageIsDetected(t *testing.T) {
	file := encoded(t, savedView())
	for i := range 8 * len(file) {
		damaged := slices.Clone(file)
		damaged[i/8] ^= 1 << (i % 8)
		if _, err := Decode(damaged, someone, savedAt); err == nil {
			t.Errorf("bit %d of byte %d is another, and nothing is wrong", i%8, i/8)
		}
	}
}

// No content makes the decoder panic, even with a right checksum.
func FuzzSavedView(f *testing.F) {
	content := encoded(f, savedView())[len(savedMagic)+32:]
	f.Add(content)
	f.Add(content[:len(content)-2])
	f.Add([]byte{})
	f.Fuzz(func(_ *testing.T, content []byte) {
		_, _ = Decode(content, someone, savedAt)
		_, _ = Decode(seal(append(make([]byte, headerSize), content...)), someone, savedAt)
	})
}

// The file of 5,000 Nodes is well below 1 MB.
func TestSavedViewIsSmall(t *testing.T) {
	if size := len(encoded(t, largeView())); size > 800_000 {
		t.Errorf("5,000 Nodes take %d bytes", size)
	}
}

// largeView has 5,000 Nodes with names as long as a cloud's.
func largeView() *Saved {
	v := &Saved{Identity: someone, Time: savedAt, ResourceVersion: "1234567"}
	for i := range 5000 {
		subnet := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(64 + i>>8), byte(i), 0}), 24)
		addr := netip.AddrFrom4([4]byte{172, 16, byte(i >> 8), byte(i)})
		n := &topology.Node{
			Name: fmt.Sprintf("ip-172-16-%d-%d.eu-central-1.compute.internal", i>>8, i&0xff), UID: string(uuid.NewUUID()),
			Created: savedAt.Add(-time.Duration(rand.IntN(1e6)) * time.Second), PodCIDRs: []netip.Prefix{subnet}, Addrs: []netip.Addr{addr},
		}
		v.Nodes = append(v.Nodes, n)
		v.Grants = append(v.Grants, topology.Grant{Subnet: subnet, Node: n.Name, UID: n.UID, Addr: addr, Via: addr, HadRoute: true})
	}
	return v
}

func BenchmarkEncodeSaved(b *testing.B) {
	v := largeView()
	b.ReportAllocs()
	for b.Loop() {
		b.ReportMetric(float64(len(encoded(b, v))), "bytes")
	}
}

func BenchmarkDecodeSaved(b *testing.B) {
	file := encoded(b, largeView())
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Decode(file, someone, savedAt); err != nil {
			b.Fatal(err)
		}
	}
}
