package apiserver

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/rand"
	clientscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"

	"github.com/plainroute/plainroute/pkg/kube"
	"github.com/plainroute/plainroute/test/testutil"
)

// Objects is an API server of any kinds of objects in this process, without a network, so that it can be used in a bubble of
// testing/synctest. It creates, gets, lists and deletes; lists know selectors of labels, and no others.
type Objects struct {
	t testing.TB
	// On, unless nil, is called before each request. An answer or an error takes the place of the server's; an error that is no
	// APIStatus is one of the connection.
	On func(q *http.Request, at Place) (answer any, err error)

	mu   sync.Mutex
	kept map[Place]map[string]any
}

// A Place is that of an object or of a collection.
type Place struct {
	Resource, Namespace string
	Name                string // empty: a collection
}

// NewObjects returns a server with objects.
func NewObjects(t testing.TB, objects ...runtime.Object) *Objects {
	t.Helper()
	o := &Objects{t: t, kept: map[Place]map[string]any{}}
	o.Add(objects...)
	return o
}

// Client returns a client of the server.
func (o *Objects) Client() *kube.Client {
	o.t.Helper()
	types := rest.ContentConfig{ContentType: runtime.ContentTypeJSON, AcceptContentTypes: runtime.ContentTypeJSON}
	client, err := kube.New(&rest.Config{Host: "http://objects", Transport: o, QPS: -1, ContentConfig: types})
	testutil.Must(o.t, err)
	return client
}

// Add adds objects.
func (o *Objects) Add(objects ...runtime.Object) {
	o.t.Helper()
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, object := range objects {
		kinds, _, err := clientscheme.Scheme.ObjectKinds(object)
		testutil.Must(o.t, err)
		resource, _ := meta.UnsafeGuessKindToResource(kinds[0])
		accessor, err := meta.Accessor(object)
		testutil.Must(o.t, err)
		o.kept[Place{resource.Resource, accessor.GetNamespace(), accessor.GetName()}] = o.generic(object)
	}
}

func (o *Objects) generic(object any) map[string]any {
	o.t.Helper()
	content, err := json.Marshal(object)
	testutil.Must(o.t, err)
	var fields map[string]any
	testutil.Must(o.t, json.Unmarshal(content, &fields))
	return fields
}

// placeOf reads a path of the API.
func placeOf(path string) Place {
	parts := strings.Split(strings.Trim(path, "/"), "/")
	parts = parts[slices.Index(parts, "v1")+1:]
	var p Place
	if len(parts) > 2 && parts[0] == "namespaces" {
		p.Namespace, parts = parts[1], parts[2:]
	}
	if p.Resource = parts[0]; len(parts) > 1 {
		p.Name = parts[1]
	}
	return p
}

// RoundTrip answers a request. It is part of http.RoundTripper.
func (o *Objects) RoundTrip(q *http.Request) (*http.Response, error) {
	if err := q.Context().Err(); err != nil {
		return nil, context.Cause(q.Context())
	}
	at := placeOf(q.URL.Path)
	if o.On != nil {
		answer, err := o.On(q, at)
		var status interface{ Status() metav1.Status }
		switch {
		case errors.As(err, &status):
			return o.respond(int(status.Status().Code), status.Status())
		case err != nil:
			return nil, err
		case answer != nil:
			return o.respond(http.StatusOK, answer)
		}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if q.Method == http.MethodPost {
		return o.create(q, at)
	}
	found := o.find(at, q.URL.Query().Get("labelSelector"))
	switch {
	case at.Name != "" && len(found) == 0:
		return o.respond(http.StatusNotFound, metav1.Status{Status: metav1.StatusFailure, Reason: metav1.StatusReasonNotFound, Code: http.StatusNotFound})
	case q.Method == http.MethodDelete:
		maps.DeleteFunc(o.kept, func(p Place, _ map[string]any) bool { return at.has(p) })
		return o.respond(http.StatusOK, metav1.Status{Status: metav1.StatusSuccess})
	case at.Name == "":
		return o.respond(http.StatusOK, map[string]any{"items": found})
	}
	return o.respond(http.StatusOK, found[0])
}

// has reports whether an object is at a place or in it.
func (p Place) has(object Place) bool {
	return p.Resource == object.Resource && (p.Namespace == "" || p.Namespace == object.Namespace) && (p.Name == "" || p.Name == object.Name)
}

// find returns the objects at a place that a selector selects, sorted by name.
func (o *Objects) find(at Place, selector string) []map[string]any {
	selected, err := labels.Parse(selector)
	testutil.Must(o.t, err)
	found := []map[string]any{}
	for _, p := range slices.SortedFunc(maps.Keys(o.kept), func(a, b Place) int { return strings.Compare(a.Namespace+"/"+a.Name, b.Namespace+"/"+b.Name) }) {
		var object metav1.PartialObjectMetadata
		content, err := json.Marshal(o.kept[p])
		testutil.Must(o.t, errors.Join(err, json.Unmarshal(content, &object)))
		if at.has(p) && selected.Matches(labels.Set(object.Labels)) {
			found = append(found, o.kept[p])
		}
	}
	return found
}

func (o *Objects) create(q *http.Request, at Place) (*http.Response, error) {
	var object map[string]any
	testutil.Must(o.t, json.NewDecoder(q.Body).Decode(&object))
	metadata, _ := object["metadata"].(map[string]any)
	if prefix, ok := metadata["generateName"].(string); ok && metadata["name"] == nil {
		metadata["name"] = prefix + rand.String(5)
	}
	if at.Namespace != "" {
		metadata["namespace"] = at.Namespace
	}
	at.Name, _ = metadata["name"].(string)
	o.kept[at] = object
	return o.respond(http.StatusCreated, object)
}

func (o *Objects) respond(code int, body any) (*http.Response, error) {
	content, err := json.Marshal(body)
	testutil.Must(o.t, err)
	header := http.Header{"Content-Type": []string{runtime.ContentTypeJSON}}
	return &http.Response{StatusCode: code, Header: header, Body: io.NopCloser(bytes.NewReader(content))}, nil
}
