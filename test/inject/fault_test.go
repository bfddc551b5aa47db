package inject

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// fakeServer answers lists with three Nodes, requests for metadata with their names, and watches with an event each.
type fakeServer struct{}

func (fakeServer) RoundTrip(request *http.Request) (*http.Response, error) {
	names := []string{"node1", "node2", "node3"}
	if !isWatch(request) {
		content, err := encode(listOf(names, request.Header.Get("Accept") == "names"))
		return respond(request, http.StatusOK, runtime.ContentTypeProtobuf, bytes.NewReader(content)), err
	}
	var stream []byte
	for _, name := range names {
		object, err := encode(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}})
		if err != nil {
			return nil, err
		}
		event := metav1.WatchEvent{Type: "ADDED", Object: runtime.RawExtension{Raw: object}}
		content, err := event.Marshal()
		if err != nil {
			return nil, err
		}
		stream = append(stream, frame(content)...)
	}
	return respond(request, http.StatusOK, watchStream, bytes.NewReader(stream)), nil
}

func listOf(names []string, metadataOnly bool) runtime.Object {
	nodes, metadata := &corev1.NodeList{}, &metav1.PartialObjectMetadataList{}
	for _, name := range names {
		named := metav1.ObjectMeta{Name: name}
		nodes.Items = append(nodes.Items, corev1.Node{ObjectMeta: named})
		metadata.Items = append(metadata.Items, metav1.PartialObjectMetadata{ObjectMeta: named})
	}
	if metadataOnly {
		return metadata
	}
	return nodes
}

func ask(t *testing.T, fault Fault, query, accept string) (int, http.Header, []byte) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://server/api/v1/nodes?"+query, nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Accept", accept)
	answer, err := fault(fakeServer{}, request)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	return answer.StatusCode, answer.Header, body
}

// isNode2 is which Node is hidden.
func isNode2(name string) bool { return name == "node2" }

// names are of the Nodes that an answer shows, or "?" if it can't be read.
func names(t *testing.T, body []byte) []string {
	t.Helper()
	var seen []string
	_, err := withoutItems(bytes.NewReader(body), func(name string) bool {
		seen = append(seen, name)
		return false
	})
	if err == nil {
		return seen
	}
	seen = nil
	err = copyEvents(io.Discard, bytes.NewReader(body), func(name string) bool {
		seen = append(seen, name)
		return false
	})
	if !errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return []string{"?"}
	}
	return seen
}

func TestFaults(t *testing.T) {
	all, two, junk := []string{"node1", "node2", "node3"}, []string{"node1", "node3"}, []string{"?"}
	const cache, quorum, stream = "resourceVersion=0", "", "watch=1&sendInitialEvents=true"
	for _, c := range []struct {
		name          string
		fault         Fault
		query, accept string
		code          int
		want          []string
	}{
		{"hidden in a cached list", Hidden(false, isNode2), cache, "", 200, two},
		{"not hidden in a quorum read", Hidden(false, isNode2), quorum, "names", 200, all},
		{"hidden everywhere", Hidden(true, isNode2), quorum, "names", 200, two},
		{"hidden in a stream", Hidden(false, isNode2), stream, "", 200, two},
		{"a truncated list", Truncated(30), cache, "", 200, junk},
		{"a truncated stream", Truncated(30), stream, "", 200, junk},
		{"a garbled list", Garbled, cache, "", 200, junk},
		{"a garbled stream", Garbled, stream, "", 200, junk},
		{"a stream refused", WithoutStreaming(nil), stream, "", 422, junk},
		{"a list not refused", WithoutStreaming(nil), cache, "", 200, all},
		{"a server in error", Refused(500, 0), cache, "", 500, junk},
		{"a list while watches expire", Expired, cache, "", 200, all},
	} {
		code, _, body := ask(t, c.fault, c.query, c.accept)
		if got := names(t, body); code != c.code || !slices.Equal(got, c.want) {
			t.Errorf("%s: %d with %v; want %d with %v", c.name, code, got, c.code, c.want)
		}
	}
}

func TestRefusedAsksToWait(t *testing.T) {
	_, header, body := ask(t, Refused(http.StatusTooManyRequests, 1), "", "")
	status, err := runtime.Decode(wire().UniversalDeserializer(), body)
	if err != nil {
		t.Fatal(err)
	}
	if got := header.Get("Retry-After"); got != "1" || status.(*metav1.Status).Code != http.StatusTooManyRequests {
		t.Errorf("Retry-After %q with %+v; want 1 and 429", got, status)
	}
}

func TestExpiredEvent(t *testing.T) {
	_, _, body := ask(t, Expired, "watch=1", "")
	var event metav1.WatchEvent
	if err := event.Unmarshal(body[4:]); err != nil {
		t.Fatal(err)
	}
	status, err := runtime.Decode(wire().UniversalDeserializer(), event.Object.Raw)
	if err != nil {
		t.Fatal(err)
	}
	if got := status.(*metav1.Status); event.Type != "ERROR" || got.Code != http.StatusGone {
		t.Errorf("event %s with %+v; want ERROR and 410", event.Type, got)
	}
}

func TestHangingEndsWithItsRequest(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://server/?watch=1", nil)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := Silent(fakeServer{}, request)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	cancel()
	if _, err := answer.Body.Read(make([]byte, 1)); !errors.Is(err, context.Canceled) {
		t.Errorf("reading a silent watch: %v; want it to end with the request", err)
	}
	none, err := Hanging(fakeServer{}, request)
	if err == nil {
		none.Body.Close()
	}
	if !errors.Is(err, context.Canceled) {
		t.Errorf("a hanging request: %v; want it to end", err)
	}
}
