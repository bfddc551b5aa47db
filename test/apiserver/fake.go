package apiserver

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	clientscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
)

// Nonsense is a code for Fake.Refuse: the answer is not an object.
const Nonsense = 1

// Fake is the part of an API server that the agent uses, in this process: it lists and watches Nodes in protobuf, accepts patches
// of a Node without applying them, and stores Events. Clients can create, read, update and delete Nodes. It can refuse any request.
// Tests with Use show that a real server behaves the same.
type Fake struct {
	Config *rest.Config

	fail func(error)

	mu       sync.Mutex
	version  int
	nodes    map[string]*corev1.Node
	events   map[string]*eventsv1.Event
	watchers []*watcher
	asked    []string // requests: method, path, query, content type and body
	refuse   func(*http.Request) int
}

// A watcher is an open watch.
type watcher struct {
	frames chan []byte
	over   chan struct{}
}

// NewFake returns a running Fake with Nodes.
func NewFake(t *testing.T, nodes ...*corev1.Node) *Fake {
	t.Helper()
	f := newFake(func(err error) { t.Error(err) })
	server := httptest.NewServer(f)
	f.Config = &rest.Config{Host: server.URL, QPS: -1}
	t.Cleanup(func() {
		f.Cut()
		server.Close()
	})
	f.Create(nodes...)
	return f
}

func newFake(fail func(error)) *Fake {
	return &Fake{fail: fail, nodes: map[string]*corev1.Node{}, events: map[string]*eventsv1.Event{}}
}

// ServeFake runs a Fake on a listener until the process ends. A request that it can't answer makes it panic.
func ServeFake(listener net.Listener) *Fake {
	f := newFake(func(err error) { panic(err) })
	f.Config = &rest.Config{Host: "http://" + listener.Addr().String(), QPS: -1, ContentConfig: rest.ContentConfig{ContentType: runtime.ContentTypeProtobuf}}
	go func() { f.fail((&http.Server{Handler: f, ReadHeaderTimeout: time.Minute}).Serve(listener)) }()
	return f
}

// Create creates Nodes or changes them.
func (f *Fake) Create(nodes ...*corev1.Node) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, n := range nodes {
		n = WithType(n.DeepCopy())
		kind := watch.Added
		if f.nodes[n.Name] != nil {
			kind = watch.Modified
		}
		if n.UID == "" {
			n.UID = types.UID(n.Name + "-uid")
		}
		f.version++
		n.ResourceVersion = strconv.Itoa(f.version)
		f.nodes[n.Name] = n
		f.send(kind, n)
	}
}

// Remove deletes a Node.
func (f *Fake) Remove(name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.version++
	n := f.nodes[name].DeepCopy()
	n.ResourceVersion = strconv.Itoa(f.version)
	delete(f.nodes, name)
	f.send(watch.Deleted, n)
}

func (f *Fake) send(kind watch.EventType, object runtime.Object) {
	f.sendRaw(f.frames(kind, object))
}

func (f *Fake) sendRaw(frame []byte) {
	for _, w := range f.watchers {
		select {
		case w.frames <- frame:
		case <-w.over:
		}
	}
}

// Send sends an event to all watches.
func (f *Fake) Send(kind watch.EventType, object runtime.Object) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.send(kind, object)
}

// SendRaw sends bytes to all watches.
func (f *Fake) SendRaw(frame []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sendRaw(frame)
}

// Cut ends all watches.
func (f *Fake) Cut() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, w := range f.watchers {
		close(w.frames)
	}
	f.watchers = nil
}

// Refuse makes the server answer with the code that the function returns, unless it is 0 or the function nil.
func (f *Fake) Refuse(code func(*http.Request) int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.refuse = code
}

// Requests returns the requests that contain all of the words.
func (f *Fake) Requests(words ...string) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var found []string
	for _, line := range f.asked {
		if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(line, w) }) {
			found = append(found, line)
		}
	}
	return found
}

// ServeHTTP answers a request.
func (f *Fake) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	body, err := io.ReadAll(q.Body)
	if err != nil {
		f.fail(err)
	}
	f.mu.Lock()
	code := 0
	if f.refuse != nil {
		code = f.refuse(q)
	}
	f.asked = append(f.asked, strings.TrimSpace(fmt.Sprintf("%s %s %s %s %s", q.Method, q.URL.Path, q.URL.RawQuery, q.Header.Get("Content-Type"), body)))
	f.mu.Unlock()
	switch {
	case code == Nonsense:
		_, _ = w.Write([]byte("nonsense"))
	case code != 0:
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		status := metav1.Status{
			TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure, Code: int32(code), Message: "refused by the test",
			Reason: map[int]metav1.StatusReason{403: metav1.StatusReasonForbidden, 404: metav1.StatusReasonNotFound, 422: metav1.StatusReasonInvalid}[code],
		}
		f.answer(w, status)
	case strings.Contains(q.URL.Path, "/events"):
		f.event(w, q, body)
	case q.Method == http.MethodPatch:
		w.Header().Set("Content-Type", runtime.ContentTypeProtobuf)
		f.encode(w, WithType(&corev1.Node{}))
	case q.Method == http.MethodPost, q.Method == http.MethodPut:
		f.write(w, body)
	case strings.HasPrefix(q.URL.Path, "/api/v1/nodes/"):
		f.read(w, q)
	case q.URL.Query().Get("watch") == "true":
		f.watch(w, q)
	default:
		f.list(w, q)
	}
	if accepted := q.Header.Get("Accept"); strings.Contains(q.URL.Path, "/nodes") && !strings.HasPrefix(accepted, runtime.ContentTypeProtobuf) {
		f.fail(fmt.Errorf("%s is asked for in %s", q.URL, accepted))
	}
}

// write creates or updates a Node.
func (f *Fake) write(w http.ResponseWriter, body []byte) {
	object, _, err := clientscheme.Codecs.UniversalDeserializer().Decode(body, nil, nil)
	if err != nil {
		f.fail(err)
		return
	}
	n, _ := object.(*corev1.Node)
	f.Create(n)
	w.Header().Set("Content-Type", runtime.ContentTypeProtobuf)
	f.encode(w, WithType(n))
}

// read sends a Node, which it deletes if asked to.
func (f *Fake) read(w http.ResponseWriter, q *http.Request) {
	f.mu.Lock()
	n := f.nodes[path.Base(q.URL.Path)]
	f.mu.Unlock()
	if n == nil {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusNotFound)
		f.answer(w, metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure, Reason: metav1.StatusReasonNotFound, Code: http.StatusNotFound})
		return
	}
	if q.Method == http.MethodDelete {
		f.Remove(n.Name)
	}
	w.Header().Set("Content-Type", runtime.ContentTypeProtobuf)
	f.encode(w, n)
}

func (f *Fake) answer(w http.ResponseWriter, what any) {
	if err := json.NewEncoder(w).Encode(what); err != nil {
		f.fail(err)
	}
}

func (f *Fake) encode(w io.Writer, object runtime.Object) {
	if err := protobuf.NewSerializer(clientscheme.Scheme, clientscheme.Scheme).Encode(object, w); err != nil {
		f.fail(err)
	}
}

// sorted returns the Nodes, and the version of the list.
func (f *Fake) sorted() (all []*corev1.Node, version string) {
	for _, name := range slices.Sorted(maps.Keys(f.nodes)) {
		all = append(all, f.nodes[name])
	}
	return all, strconv.Itoa(f.version)
}

// Nodes returns the Nodes, sorted by name.
func (f *Fake) Nodes() []*corev1.Node {
	f.mu.Lock()
	defer f.mu.Unlock()
	all, _ := f.sorted()
	return all
}

// list sends all Nodes, or the metadata of two at a time.
func (f *Fake) list(w http.ResponseWriter, q *http.Request) {
	f.mu.Lock()
	all, version := f.sorted()
	f.mu.Unlock()
	w.Header().Set("Content-Type", runtime.ContentTypeProtobuf)
	if !strings.Contains(q.Header.Get("Accept"), "PartialObjectMetadataList") {
		list := &corev1.NodeList{TypeMeta: metav1.TypeMeta{Kind: "NodeList", APIVersion: "v1"}, ListMeta: metav1.ListMeta{ResourceVersion: version}}
		for _, n := range all {
			list.Items = append(list.Items, *n)
		}
		f.encode(w, list)
		return
	}
	const perPage = 2
	list := &metav1.PartialObjectMetadataList{
		TypeMeta: metav1.TypeMeta{Kind: "PartialObjectMetadataList", APIVersion: "meta.k8s.io/v1"}, ListMeta: metav1.ListMeta{ResourceVersion: version},
	}
	from, _ := strconv.Atoi(q.URL.Query().Get("continue"))
	for i := from; i < len(all) && i < from+perPage; i++ {
		list.Items = append(list.Items, metav1.PartialObjectMetadata{ObjectMeta: all[i].ObjectMeta})
	}
	if from+perPage < len(all) {
		list.Continue = strconv.Itoa(from + perPage)
	}
	f.encode(w, list)
}

// watch sends the Nodes if asked to, with a bookmark at the end, and then all events.
func (f *Fake) watch(w http.ResponseWriter, q *http.Request) {
	flusher, ok := w.(http.Flusher)
	if !ok {
		f.fail(errors.New("this server can't stream"))
		return
	}
	var first bytes.Buffer
	f.mu.Lock()
	if q.URL.Query().Get("sendInitialEvents") == "true" {
		all, version := f.sorted()
		for _, n := range all {
			first.Write(f.frames(watch.Added, n))
		}
		first.Write(f.frames(watch.Bookmark, bookmark(version)))
	}
	me := &watcher{make(chan []byte, 1000), make(chan struct{})}
	f.watchers = append(f.watchers, me)
	f.mu.Unlock()
	defer close(me.over)
	w.Header().Set("Content-Type", runtime.ContentTypeProtobuf+";stream=watch")
	_, _ = w.Write(first.Bytes())
	flusher.Flush()
	for {
		select {
		case frame, ok := <-me.frames:
			if !ok {
				return
			}
			_, _ = w.Write(frame)
			flusher.Flush()
		case <-q.Context().Done():
			return
		}
	}
}

// bookmark marks the end of the initial events of a stream.
func bookmark(version string) *corev1.Node {
	return WithType(&corev1.Node{ObjectMeta: metav1.ObjectMeta{
		ResourceVersion: version, Annotations: map[string]string{metav1.InitialEventsAnnotationKey: "true"},
	}})
}

// event creates an Event, or changes its series.
func (f *Fake) event(w http.ResponseWriter, q *http.Request, body []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	if accepted := q.Header.Get("Accept"); accepted != "application/json" {
		f.fail(fmt.Errorf("an Event is asked for in %s", accepted))
	}
	var sent eventsv1.Event
	if err := json.Unmarshal(body, &sent); err != nil {
		f.fail(err)
	}
	name := q.URL.Path[strings.LastIndex(q.URL.Path, "/")+1:]
	kept := f.events[name]
	switch {
	case q.Method == http.MethodPost && f.events[sent.Name] != nil:
		w.WriteHeader(http.StatusConflict)
		f.answer(w, metav1.Status{Status: metav1.StatusFailure, Reason: metav1.StatusReasonAlreadyExists, Code: http.StatusConflict})
	case q.Method == http.MethodPost:
		f.events[sent.Name] = &sent
		w.WriteHeader(http.StatusCreated)
		f.answer(w, sent)
	case kept == nil:
		w.WriteHeader(http.StatusNotFound)
		f.answer(w, metav1.Status{Status: metav1.StatusFailure, Reason: metav1.StatusReasonNotFound, Code: http.StatusNotFound})
	default:
		if sent.Series != nil {
			kept.Series = sent.Series
		}
		f.answer(w, kept)
	}
}

// Events returns the Events, each as "Type Reason xCount".
func (f *Fake) Events() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []string
	for _, e := range f.events {
		count := int32(1)
		if e.Series != nil {
			count = e.Series.Count
		}
		all = append(all, fmt.Sprintf("%s %s x%d", e.Type, e.Reason, count))
	}
	slices.Sort(all)
	return all
}

// ForgetEvents deletes all Events, as API servers do after an hour.
func (f *Fake) ForgetEvents() {
	f.mu.Lock()
	defer f.mu.Unlock()
	clear(f.events)
}

// Frames returns events as an API server sends them, made by its own encoders.
func Frames(t testing.TB, kind watch.EventType, objects ...runtime.Object) []byte {
	t.Helper()
	all, err := frames(kind, objects...)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func (f *Fake) frames(kind watch.EventType, object runtime.Object) []byte {
	all, err := frames(kind, object)
	if err != nil {
		f.fail(err)
	}
	return all
}

func frames(kind watch.EventType, objects ...runtime.Object) ([]byte, error) {
	var all bytes.Buffer
	framer := protobuf.LengthDelimitedFramer.NewFrameWriter(&all)
	for _, object := range objects {
		var raw bytes.Buffer
		if err := protobuf.NewSerializer(clientscheme.Scheme, clientscheme.Scheme).Encode(object, &raw); err != nil {
			return nil, err
		}
		event := metav1.WatchEvent{Type: string(kind), Object: runtime.RawExtension{Raw: raw.Bytes()}}
		frame, err := event.Marshal()
		if err != nil {
			return nil, err
		}
		if _, err := framer.Write(frame); err != nil {
			return nil, err
		}
	}
	return all.Bytes(), nil
}

// WithType sets the type of a Node, which API servers send.
func WithType(node *corev1.Node) *corev1.Node {
	node.TypeMeta = metav1.TypeMeta{Kind: "Node", APIVersion: "v1"}
	return node
}
