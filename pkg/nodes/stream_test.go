package nodes

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/plainroute/plainroute/pkg/topology"
	"github.com/plainroute/plainroute/test/apiserver"
)

// All events share one buffer: an event must not change when the next one arrives. They arrive
// in pieces of any size.
func TestWireStream(t *testing.T) {
	bookmark := apiserver.WithType(&corev1.Node{ObjectMeta: metav1.ObjectMeta{
		ResourceVersion: "42",
		Annotations:     map[string]string{metav1.InitialEventsAnnotationKey: "true", "other": "b"},
	}})
	gone := &metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Reason: metav1.StatusReasonExpired, Code: 410, Message: "too old"}
	all := bytes.Join([][]byte{
		apiserver.Frames(t, watch.Added, apiserver.WithType(apiserver.Node1()), apiserver.WithType(apiserver.Peer(2))), apiserver.Frames(t, watch.Bookmark, bookmark),
		apiserver.Frames(t, watch.Modified, apiserver.WithType(apiserver.ManyAddresses(2000))), apiserver.Frames(t, watch.Deleted, apiserver.WithType(apiserver.Peer(2))), apiserver.Frames(t, watch.Error, gone),
	}, nil)
	want := []watch.Event{
		{Type: watch.Added, Object: wire(kept(apiserver.Node1()))},
		{Type: watch.Added, Object: wire(kept(apiserver.Peer(2)))},
		{Type: watch.Bookmark, Object: wire(kept(bookmark))},
		{Type: watch.Modified, Object: wire(kept(apiserver.ManyAddresses(2000)))},
		{Type: watch.Deleted, Object: wire(kept(apiserver.Peer(2)))},
		{Type: watch.Error, Object: gone},
	}
	for name, reader := range map[string]io.Reader{"whole": bytes.NewReader(all), "byte by byte": iotest.OneByteReader(bytes.NewReader(all))} {
		stream := newWireStream(io.NopCloser(reader))
		var got []watch.Event
		for {
			kind, object, err := stream.Decode()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			got = append(got, watch.Event{Type: kind, Object: object})
		}
		if len(got) != len(want) {
			t.Fatalf("%s: %d events, want %d", name, len(got), len(want))
		}
		for i := range want {
			if g, ok := got[i].Object.(*metav1.Status); ok {
				g.TypeMeta = gone.TypeMeta // which is outside the message
			}
			if !reflect.DeepEqual(got[i], want[i]) {
				t.Errorf("%s: event %d is %v, want %v", name, i, got[i], want[i])
			}
		}
	}
}

// An event that is cut short is an error.
func TestWireStreamCutShort(t *testing.T) {
	first, second := apiserver.Frames(t, watch.Added, apiserver.WithType(apiserver.Node1())), apiserver.Frames(t, watch.Added, apiserver.WithType(apiserver.Peer(2)))
	for n := range second {
		stream := newWireStream(io.NopCloser(bytes.NewReader(append(bytes.Clone(first), second[:n]...))))
		if _, _, err := stream.Decode(); err != nil {
			t.Fatal(err)
		}
		_, object, err := stream.Decode()
		if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) || object != nil {
			t.Fatalf("cut after %d bytes: %v, %v, want the end", n, object, err)
		}
	}
}

// Garbage is an error, and allocates little memory.
func TestWireStreamGarbage(t *testing.T) {
	json := `{"type":"ADDED","object":{"kind":"Node"}}`
	event := func(wrapped string) string { // of an object in a wrapper (message Unknown) with these bytes
		object := "k8s\x00" + wrapped
		n := byte(len(object))
		return string([]byte{0, 0, 0, n + 4, 0x12, n + 2, 0x0a, n}) + object
	}
	framed := binary.BigEndian.AppendUint32(nil, uint32(len(json)+4))
	for name, c := range map[string]struct{ bytes, want string }{
		"too large":        {"\x7f\xff\xff\xff", "an event of 2147483647 bytes"},
		"JSON":             {json, "an event of"},
		"empty":            {"\x00\x00\x00\x00", "not in protobuf"},
		"JSON in a frame":  {string(framed) + "\x12\x2b\x0a\x29" + json, "not in protobuf"},
		"no fields at all": {"\x00\x00\x00\x02\xff\xff", "reading protobuf"},
		"largest":          {"\x01\x00\x00\x00", "EOF"},
		"cut extension":    {"\x00\x00\x00\x04" + "\x12\x02\x0a\x05", "reading protobuf"},
		"cut wrapper":      {event("\x0a\x05"), "reading protobuf"},
		"cut kind":         {event("\x0a\x02\x12\x05"), "reading protobuf"},
		"cut Node":         {event("\x12\x02\x0a\x05"), "reading protobuf"},
		"cut Status":       {event("\x0a\x08\x12\x06Status" + "\x12\x02\x0a\x05"), "unexpected EOF"},
	} {
		stream := newWireStream(io.NopCloser(strings.NewReader(c.bytes)))
		if _, object, err := stream.Decode(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, %v, want an error with %q", name, object, err, c.want)
		}
	}
}

func TestWireStreamClose(t *testing.T) {
	reader, writer := io.Pipe()
	defer writer.Close()
	stream := newWireStream(reader)
	ended := make(chan error, 1)
	go func() {
		_, _, err := stream.Decode()
		ended <- err
	}()
	stream.Close()
	if err := <-ended; err == nil {
		t.Error("Decode goes on after Close")
	}
}

// FuzzWireStream: no input panics, and an event without an error has an object: the Node that
// the API server's own decoders read.
func FuzzWireStream(f *testing.F) {
	f.Add(apiserver.Frames(f, watch.Added, apiserver.WithType(apiserver.Node1()), apiserver.WithType(apiserver.Peer(2))))
	f.Add(apiserver.Frames(f, watch.Modified, apiserver.WithType(apiserver.NewNode("a", "bogus/", "::ffff:1.2.3.4", "fe80::1%eth0"))))
	f.Add(apiserver.Frames(f, watch.Error, &metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Code: 410}))
	f.Add([]byte("\x00\x00\x00\x02\x12\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		stream := newWireStream(io.NopCloser(bytes.NewReader(b)))
		for i := range 10 {
			_, object, err := stream.Decode()
			if err != nil {
				return
			}
			if object == nil {
				t.Fatal("an event without an object")
			}
			node, ok := object.(*wireNode)
			if want := decodedInFull(b); i == 0 && ok && want != nil && !topology.NodeFrom(want).Equal(topology.NodeFrom(&node.Node)) {
				t.Fatalf("want %v, got %v", want, node)
			}
		}
	})
}

// decodedInFull returns the Node of the first event, read with the API server's own decoders,
// or nil if they fail.
func decodedInFull(b []byte) *corev1.Node {
	const header = 4
	end := header + int(binary.BigEndian.Uint32(b))
	var event metav1.WatchEvent
	if end > len(b) || event.Unmarshal(b[header:end]) != nil {
		return nil
	}
	raw, ok := bytes.CutPrefix(event.Object.Raw, []byte("k8s\x00"))
	var unknown runtime.Unknown
	node := &corev1.Node{}
	if !ok || unknown.Unmarshal(raw) != nil || node.Unmarshal(unknown.Raw) != nil {
		return nil
	}
	return node
}

// BenchmarkWireStream decodes events of a Node as large as busy kubelets make it. Its counts are compared by
// `make bench-check`.
func BenchmarkWireStream(b *testing.B) {
	n := apiserver.WithType(apiserver.Peer(2))
	for i := range 50 {
		names := []string{fmt.Sprintf("registry.example.com/team/image@sha256:%064d", i), fmt.Sprintf("registry.example.com/team/image:%d", i)}
		n.Status.Images = append(n.Status.Images, corev1.ContainerImage{Names: names, SizeBytes: 1 << 28})
	}
	frame := apiserver.Frames(b, watch.Modified, n)
	reader := bytes.NewReader(nil)
	stream := newWireStream(io.NopCloser(reader))
	b.ReportAllocs()
	for b.Loop() {
		reader.Reset(frame)
		stream.reads.Reset(reader)
		if _, _, err := stream.Decode(); err != nil {
			b.Fatal(err)
		}
	}
}
