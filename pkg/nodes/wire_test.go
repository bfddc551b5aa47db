package nodes

import (
	"fmt"
	"math/rand"
	"reflect"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/apitesting/fuzzer"
	"k8s.io/apimachinery/pkg/api/resource"
	metafuzzer "k8s.io/apimachinery/pkg/apis/meta/fuzzer"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	"github.com/plainroute/plainroute/pkg/topology"
	"github.com/plainroute/plainroute/test/apiserver"
)

// kept returns the fields of a Node that wireNode must read.
func kept(full *corev1.Node) *corev1.Node {
	n := &corev1.Node{}
	n.Name, n.UID, n.ResourceVersion, n.Labels = full.Name, full.UID, full.ResourceVersion, full.Labels
	n.CreationTimestamp, n.DeletionTimestamp = full.CreationTimestamp, full.DeletionTimestamp
	if end, ok := full.Annotations[metav1.InitialEventsAnnotationKey]; ok {
		n.Annotations = map[string]string{metav1.InitialEventsAnnotationKey: end}
	}
	n.Spec.PodCIDR, n.Spec.PodCIDRs = full.Spec.PodCIDR, full.Spec.PodCIDRs
	for _, a := range full.Status.Addresses {
		if a.Type == corev1.NodeInternalIP {
			n.Status.Addresses = append(n.Status.Addresses, a)
		}
	}
	return n
}

// sameOnWire returns an error unless wireNode reads a Node's bytes as the API server's decoder does.
func sameOnWire(node *corev1.Node) error {
	bytes, err := node.Marshal()
	if err != nil {
		return fmt.Errorf("marshalling: %w", err)
	}
	full, read := &corev1.Node{}, &wireNode{}
	if err := full.Unmarshal(bytes); err != nil {
		return fmt.Errorf("reading in full: %w", err)
	}
	if err := read.Unmarshal(bytes); err != nil {
		return fmt.Errorf("reading what matters: %w", err)
	}
	if want := kept(full); !reflect.DeepEqual(want, &read.Node) {
		return fmt.Errorf("want %#v\n got %#v", want, &read.Node)
	}
	if want, got := topology.NodeFrom(full), topology.NodeFrom(&read.Node); !want.Equal(got) {
		return fmt.Errorf("want %v, got %v", want, got)
	}
	return nil
}

// wireNode reads Nodes as kubelets and cloud controllers write them.
func TestWireNodeReadsRealisticNodes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		if err := sameOnWire(realisticNode(t)); err != nil {
			t.Fatal(err)
		}
	})
}

func realisticNode(t *rapid.T) *corev1.Node {
	word := rapid.StringMatching(`[a-z0-9./-]{0,20}`)
	labels := rapid.MapOfN(word, word, 0, 12)
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{
		Name: word.Draw(t, "name"), UID: types.UID(word.Draw(t, "uid")), ResourceVersion: word.Draw(t, "version"),
		Labels: labels.Draw(t, "labels"), Annotations: labels.Draw(t, "annotations"), Finalizers: []string{"a", "b"}, Generation: 7,
		ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "kubelet", FieldsV1: metav1.NewFieldsV1(`{"f:spec":{}}`)}},
	}}
	if s := rapid.Int64Range(0, 1<<33).Draw(t, "created"); s > 0 {
		n.CreationTimestamp = metav1.Unix(s, 0)
	}
	if rapid.Bool().Draw(t, "going") {
		going := metav1.Unix(1700000000, 0)
		n.DeletionTimestamp = &going
	}
	if rapid.Bool().Draw(t, "bookmark") {
		n.Annotations[metav1.InitialEventsAnnotationKey] = "true"
	}
	n.Spec.PodCIDRs = rapid.SliceOfN(rapid.SampledFrom([]string{"10.244.1.0/24", "fd00:10:244:1::/64", "bogus", ""}), 0, 3).Draw(t, "podCIDRs")
	n.Spec.PodCIDR = rapid.SampledFrom([]string{"", "10.244.1.0/24"}).Draw(t, "podCIDR")
	n.Spec.ProviderID, n.Spec.Unschedulable = word.Draw(t, "provider"), true
	n.Spec.Taints = []corev1.Taint{{Key: "a", TimeAdded: &metav1.Time{Time: time.Unix(5, 0)}}}
	kinds := rapid.SampledFrom([]corev1.NodeAddressType{corev1.NodeInternalIP, corev1.NodeHostName, corev1.NodeExternalIP, ""})
	for range rapid.IntRange(0, 5).Draw(t, "addresses") {
		address := rapid.SampledFrom([]string{"192.168.1.11", "fd00::11", "::ffff:10.0.0.1", "bogus", ""}).Draw(t, "address")
		n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: kinds.Draw(t, "kind"), Address: address})
	}
	n.Status.Capacity = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("4")}
	n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
	n.Status.Images = []corev1.ContainerImage{{Names: []string{"example.com/a:1"}, SizeBytes: 1 << 40}}
	n.Status.DaemonEndpoints.KubeletEndpoint.Port = 10250
	return n
}

// wireNode reads Nodes with random values in all fields.
func TestWireNodeReadsAnyNode(t *testing.T) {
	codecs := serializer.NewCodecFactory(runtime.NewScheme())
	seed := time.Now().UnixNano()
	f := fuzzer.FuzzerFor(metafuzzer.Funcs, rand.NewSource(seed), codecs)
	for range 2000 {
		node := &corev1.Node{}
		f.Fill(node)
		if err := sameOnWire(node); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
}

func TestWireNodeListReadsLists(t *testing.T) {
	list := corev1.NodeList{ListMeta: metav1.ListMeta{ResourceVersion: "42", Continue: "more"}}
	for i := range 3 {
		list.Items = append(list.Items, *apiserver.Peer(i + 2))
	}
	bytes, err := list.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	var read wireNodeList
	if err := read.Unmarshal(bytes); err != nil {
		t.Fatal(err)
	}
	if read.ResourceVersion != "42" || read.Continue != "more" || len(read.Items) != 3 {
		t.Fatalf("read %+v", read)
	}
	read.TypeMeta = metav1.TypeMeta{Kind: "NodeList", APIVersion: "v1"}
	first := read.Items[0].DeepCopyObject()
	copied := read.DeepCopyObject().(*wireNodeList)
	read.Items[0].Status.Addresses[0].Address = "changed"
	if copied.TypeMeta != read.TypeMeta || copied.ListMeta.ResourceVersion != "42" || copied.ListMeta.Continue != "more" {
		t.Errorf("copied %+v", copied)
	}
	if want := wire(kept(&list.Items[0])); !reflect.DeepEqual(want, first) {
		t.Errorf("the first one alone: want %v, got %v", want, first)
	}
	for i := range 3 {
		if want := kept(&list.Items[i]); !reflect.DeepEqual(want, &copied.Items[i].Node) {
			t.Errorf("item %d: want %v, got %v", i, want, &copied.Items[i].Node)
		}
	}
}

// Reset clears a Node or list that was used before.
func TestWireNodeReset(t *testing.T) {
	n := &wireNode{*apiserver.Peer(2)}
	n.Reset()
	if !reflect.DeepEqual(n, &wireNode{}) {
		t.Errorf("left %v", n)
	}
	l := &wireNodeList{Items: []wireNode{*n}}
	l.Reset()
	if !reflect.DeepEqual(l, &wireNodeList{}) {
		t.Errorf("left %v", l)
	}
}

// FuzzWireNode: no input panics, and input that both decoders accept leads to the same Node.
// A Node that an API server has encoded reads the same. Our decoder refuses groups, which API
// servers never send.
func FuzzWireNode(f *testing.F) {
	for _, n := range []*corev1.Node{{}, apiserver.Node1(), apiserver.NewNode("a", "bogus/", "::ffff:1.2.3.4")} {
		n.CreationTimestamp, n.Labels = metav1.Unix(1, 2), map[string]string{"a": "b"}
		bytes, err := n.Marshal()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(bytes)
		f.Add(bytes[:len(bytes)/2])
	}
	f.Add([]byte{0x0b, 0x0c})
	f.Fuzz(func(t *testing.T, bytes []byte) {
		read, full := &wireNode{}, &corev1.Node{}
		err := read.Unmarshal(bytes)
		_ = (&wireNodeList{}).Unmarshal(bytes)
		if full.Unmarshal(bytes) != nil {
			return
		}
		if err := sameOnWire(full); err != nil {
			t.Fatal(err)
		}
		if err != nil {
			return
		}
		if want, got := topology.NodeFrom(full), topology.NodeFrom(&read.Node); !want.Equal(got) {
			t.Fatalf("want %v, got %v", want, got)
		}
	})
}

// FuzzIgnoredNode: for any labels of a Node and any selector, the Node is ignored if the selector
// matches, and otherwise kept as it is.
func FuzzIgnoredNode(f *testing.F) {
	f.Add("type=virtual-kubelet", "type", "virtual-kubelet")
	f.Add("a in (b, c), !d", "d", "")
	f.Add("a notin (b)", "a", "\xff")
	f.Fuzz(func(t *testing.T, ignore, key, value string) {
		selector, err := labels.Parse(ignore)
		if err != nil {
			return
		}
		node := apiserver.Peer(2)
		node.Labels = map[string]string{key: value}
		obj, err := (&Source{ignore: selector}).Transformer()(&wireNode{*node})
		if err != nil {
			t.Fatal(err)
		}
		kept := obj.(*keptNode).node
		switch {
		case selector.Matches(labels.Set(node.Labels)) != (kept == nil):
			t.Fatalf("%q: kept %v of labels %v", ignore, kept, node.Labels)
		case kept != nil && !kept.Equal(topology.NodeFrom(node)):
			t.Fatalf("kept %v", kept)
		}
	})
}
