package inject

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"mime"
	"net/http"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/watch"
)

// wire encodes the objects of the API server's answers in protobuf: Nodes, their lists, and lists of their metadata.
var wire = sync.OnceValue(func() serializer.CodecFactory {
	scheme := runtime.NewScheme()
	scheme.AddKnownTypes(corev1.SchemeGroupVersion, &corev1.Node{}, &corev1.NodeList{}, &metav1.Status{})
	scheme.AddKnownTypes(metav1.SchemeGroupVersion, &metav1.PartialObjectMetadata{}, &metav1.PartialObjectMetadataList{})
	return serializer.NewCodecFactory(scheme)
})

// encode renders an object in protobuf. Its kind is part of that, and is taken from the scheme
// where the object has none.
func encode(object runtime.Object) ([]byte, error) {
	info, known := runtime.SerializerInfoForMediaType(wire().SupportedMediaTypes(), runtime.ContentTypeProtobuf)
	if !known {
		return nil, fmt.Errorf("rendering a %T: no protobuf serializer", object)
	}
	version := corev1.SchemeGroupVersion
	if _, metadata := object.(*metav1.PartialObjectMetadataList); metadata {
		version = metav1.SchemeGroupVersion
	}
	content, err := runtime.Encode(wire().EncoderForVersion(info.Serializer, version), object)
	if err != nil {
		return nil, fmt.Errorf("rendering a %T: %w", object, err)
	}
	return content, nil
}

// Hidden leaves Nodes out, by name, of every answer with them: lists, and events. Lists that are a
// quorum read, for which the server asks etcd, are whole unless everywhere is set.
func Hidden(everywhere bool, hide func(name string) bool) Fault {
	return func(server http.RoundTripper, request *http.Request) (*http.Response, error) {
		answer, err := server.RoundTrip(request)
		if err != nil || answer.StatusCode != http.StatusOK {
			return answer, err
		}
		kind, _, err := mime.ParseMediaType(answer.Header.Get("Content-Type"))
		if err != nil || kind != runtime.ContentTypeProtobuf {
			answer.Body.Close()
			return nil, fmt.Errorf("hiding Nodes in an answer of type %s: %w", kind, err)
		}
		whole := answer.Body
		switch {
		case isWatch(request):
			setBody(answer, withoutEvents(whole, hide))
		case everywhere || request.URL.Query().Get("resourceVersion") != "":
			defer whole.Close()
			list, err := withoutItems(whole, hide)
			if err != nil {
				return nil, err
			}
			setBody(answer, io.NopCloser(bytes.NewReader(list)))
		}
		return answer, nil
	}
}

// withoutItems is a list in protobuf without some of its objects.
func withoutItems(body io.Reader, hide func(string) bool) ([]byte, error) {
	content, err := io.ReadAll(body)
	if err != nil {
		return nil, fmt.Errorf("reading a list: %w", err)
	}
	list, err := runtime.Decode(wire().UniversalDeserializer(), content)
	if err != nil {
		return nil, fmt.Errorf("decoding a list: %w", err)
	}
	var kept []runtime.Object
	err = meta.EachListItem(list, func(item runtime.Object) error {
		object, err := meta.Accessor(item)
		if err == nil && !hide(object.GetName()) {
			kept = append(kept, item)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("reading the items of a list: %w", err)
	}
	if err := meta.SetList(list, kept); err != nil {
		return nil, fmt.Errorf("shortening a list: %w", err)
	}
	return encode(list)
}

// withoutEvents is a watch in protobuf without the events of some objects.
func withoutEvents(body io.ReadCloser, hide func(string) bool) io.ReadCloser {
	reader, writer := io.Pipe()
	go func() {
		defer body.Close()
		writer.CloseWithError(copyEvents(writer, body, hide))
	}()
	return reader
}

func copyEvents(to io.Writer, from io.Reader, hide func(string) bool) error {
	for {
		var size [4]byte
		if _, err := io.ReadFull(from, size[:]); err != nil {
			return err
		}
		content := make([]byte, binary.BigEndian.Uint32(size[:]))
		if _, err := io.ReadFull(from, content); err != nil {
			return err
		}
		name, err := nodeOf(content)
		if err != nil {
			return err
		}
		if name != "" && hide(name) {
			continue
		}
		if _, err := to.Write(frame(content)); err != nil {
			return err
		}
	}
}

// nodeOf returns the name of the Node of an event, "" for bookmarks and errors.
func nodeOf(content []byte) (string, error) {
	var event metav1.WatchEvent
	if err := event.Unmarshal(content); err != nil {
		return "", fmt.Errorf("decoding an event: %w", err)
	}
	if event.Type == string(watch.Bookmark) || event.Type == string(watch.Error) {
		return "", nil
	}
	object, err := runtime.Decode(wire().UniversalDeserializer(), event.Object.Raw)
	if err != nil {
		return "", fmt.Errorf("decoding an event's object: %w", err)
	}
	node, err := meta.Accessor(object)
	if err != nil {
		return "", fmt.Errorf("reading an event's object: %w", err)
	}
	return node.GetName(), nil
}
