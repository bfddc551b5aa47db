package nodes

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
)

const maxFrame = 16 << 20 // more than the size of any Node in bytes: etcd's limit is 1.5 MiB

// wireStream decodes the events of a watch, with one buffer for all of them: client-go's
// decoder copies each object twice, which for 5,000 Nodes makes 128 MB of garbage.
type wireStream struct {
	body  io.ReadCloser
	reads *bufio.Reader
	frame []byte
	own   string // name of the Node whose taints and conditions are read too

	onEvent func() // called for each event; may be nil
	onClose func() // called by Close; may be nil
}

// newWireStream returns a stream that reads a body of ContentTypeProtobuf with stream=watch.
func newWireStream(body io.ReadCloser) *wireStream {
	return &wireStream{body: body, reads: bufio.NewReaderSize(body, 64<<10)}
}

// Close ends a Decode that waits. A StreamWatcher calls it exactly once, also after an error
// of Decode.
func (s *wireStream) Close() {
	_ = s.body.Close()
	if s.onClose != nil {
		s.onClose()
	}
}

// Decode waits for the next event and returns it.
func (s *wireStream) Decode() (watch.EventType, runtime.Object, error) {
	if err := s.readFrame(); err != nil {
		return "", nil, err
	}
	if s.onEvent != nil {
		s.onEvent()
	}
	var kind, extension, object []byte
	if err := readFields(s.frame, &kind, &extension); err != nil { // message WatchEvent of k8s.io/apimachinery/pkg/apis/meta/v1
		return "", nil, err
	}
	if err := readFields(extension, &object); err != nil { // message RawExtension
		return "", nil, err
	}
	decoded, err := decodeObject(object, s.own)
	return watch.EventType(kind), decoded, err
}

// readFrame reads a frame: its length in four bytes, big-endian, and its content.
func (s *wireStream) readFrame() error {
	var header [4]byte
	if _, err := io.ReadFull(s.reads, header[:]); err != nil {
		return err
	}
	size := int(binary.BigEndian.Uint32(header[:]))
	if size > maxFrame {
		return fmt.Errorf("reading a watch: an event of %d bytes", size)
	}
	s.frame = slices.Grow(s.frame[:0], size)[:size]
	_, err := io.ReadFull(s.reads, s.frame)
	return err
}

var errNotProtobuf = errors.New("reading a watch: an object that is not in protobuf")

// decodeObject reads a Node or Status.
func decodeObject(b []byte, own string) (runtime.Object, error) {
	kind, raw, err := unwrap(b)
	if err != nil {
		return nil, err
	}
	if kind == "Status" {
		status := &metav1.Status{}
		return status, status.Unmarshal(raw)
	}
	node := &wireNode{}
	return node, node.unmarshal(raw, own)
}

// unwrap reads the magic number and message Unknown of
// k8s.io/apimachinery/pkg/runtime/generated.proto, and returns the object's kind and bytes.
func unwrap(b []byte) (kind string, raw []byte, err error) {
	b, found := bytes.CutPrefix(b, []byte("k8s\x00"))
	if !found {
		return "", nil, errNotProtobuf
	}
	var meta []byte
	if err := readFields(b, &meta, &raw); err != nil {
		return "", nil, err
	}
	_, kind, err = readEntry(meta) // message TypeMeta: apiVersion, kind
	return kind, raw, err
}
