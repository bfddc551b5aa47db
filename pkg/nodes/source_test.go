package nodes

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/plainroute/plainroute/pkg/topology"
	"github.com/plainroute/plainroute/test/apiserver"
)

// newSource returns a Source that the test fills.
func newSource(t *testing.T) (s *Source, news *int) {
	t.Helper()
	s, err := New(&rest.Config{Host: "https://127.0.0.1:1"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	news = new(int)
	s.notify = func() { *news++ }
	return s, news
}

func wire(node *corev1.Node) *wireNode { return &wireNode{*node} }

func names(v View) []string {
	var all []string
	for _, n := range v.Nodes {
		all = append(all, n.Name)
	}
	slices.Sort(all)
	return all
}

func TestStoreKeepsTheView(t *testing.T) {
	s, news := newSource(t)
	step := func(what string, wantNews int, err error, want ...string) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if *news != wantNews {
			t.Errorf("%s: %d calls of notify, want %d", what, *news, wantNews)
		}
		if got := names(s.View()); !slices.Equal(got, want) {
			t.Errorf("%s: view has %q, want %q", what, got, want)
		}
	}
	step("add", 1, s.Add(wire(apiserver.Peer(2))), "node2")
	if s.View().Synced {
		t.Error("synced before a full list")
	}
	step("replace", 2, s.Replace([]any{wire(apiserver.Peer(4)), wire(apiserver.Peer(3)), wire(apiserver.Peer(2))}, "7"), "node2", "node3", "node4")
	if v := s.View(); v.Nodes[0].Name != "node2" || v.Nodes[1].Name != "node3" {
		t.Error("a list is not sorted by pod subnet, as a pass would have it")
	}
	if !s.View().Synced {
		t.Error("not synced after a full list")
	}
	step("update without a change", 2, s.Update(wire(apiserver.Peer(3))), "node2", "node3", "node4")
	step("update", 3, s.Update(wire(apiserver.NewNode("node3", "10.244.3.0/24", "192.168.1.33"))), "node2", "node3", "node4")
	step("delete", 4, s.Delete(wire(apiserver.Peer(2))), "node3", "node4")
	step("delete once more", 4, s.Delete(wire(apiserver.Peer(2))), "node3", "node4")
	step("delete that was missed", 5, s.Delete(cache.DeletedFinalStateUnknown{Key: "node4", Obj: wire(apiserver.Peer(4))}), "node3")
	step("add", 6, s.Add(wire(apiserver.Peer(5))), "node3", "node5")
	step("replace by none", 7, s.Replace(nil, "9"))
	step("add one that was there", 8, s.Add(wire(apiserver.Peer(5))), "node5")
	for name, take := range map[string]func(any) error{
		"add": s.Add, "update": s.Update, "delete": s.Delete, "replace": func(obj any) error { return s.Replace([]any{wire(apiserver.Peer(2)), obj}, "11") },
	} {
		step(name+" a string", 8, nil, "node5")
		if err := take("a string"); err == nil {
			t.Errorf("%s: took a string for a Node", name)
		}
	}
}

// A view stays the same while the Source changes.
func TestViewIsNotChanged(t *testing.T) {
	s, _ := newSource(t)
	if err := s.Replace([]any{wire(apiserver.Peer(2)), wire(apiserver.Peer(3))}, "1"); err != nil {
		t.Fatal(err)
	}
	before := s.View()
	first := *before.Nodes[0]
	_ = s.Update(wire(apiserver.NewNode("node2", "10.244.2.0/24", "192.168.1.99")))
	_ = s.Delete(wire(apiserver.Peer(3)))
	if got := names(before); !slices.Equal(got, []string{"node2", "node3"}) || !before.Nodes[0].Equal(&first) {
		t.Errorf("the view became %q", got)
	}
}

func TestViewSince(t *testing.T) {
	s, _ := newSource(t)
	if !s.View().Since.IsZero() {
		t.Error("something changed though nothing came")
	}
	start := time.Now()
	_ = s.Add(wire(apiserver.Peer(2)))
	_ = s.Add(wire(apiserver.Peer(3)))
	if since := s.View().Since; since.Before(start) || since.After(time.Now()) {
		t.Errorf("the oldest change came at %s", since)
	}
	_ = s.Add(wire(apiserver.Peer(3)))
	if !s.View().Since.IsZero() {
		t.Error("the same change twice")
	}
}

// A wait is 2.5 s at most in a small cluster, and 30 s in a large one.
func TestBackoffIsBounded(t *testing.T) {
	s, _ := newSource(t)
	clock := scaledClock{source: s}
	delay := newBackoff().DelayFunc()
	longest := time.Duration(0)
	for range 2000 {
		longest = max(longest, clock.stretch(delay()))
	}
	if longest > 2500*time.Millisecond || longest < 2*time.Second {
		t.Errorf("the longest wait is %s, want nearly 2.5s", longest)
	}
	s.view.Nodes = make([]*topology.Node, 1000)
	if d := clock.stretch(2500 * time.Millisecond); d != 2500*time.Millisecond {
		t.Errorf("with 1000 Nodes the longest wait is %s, want 2.5s", d)
	}
	for _, nodes := range []int{5000, 50000} {
		s.view.Nodes = make([]*topology.Node, nodes)
		if d := clock.stretch(2500 * time.Millisecond); d != 30*time.Second {
			t.Errorf("with %d Nodes the longest wait is %s, want 30s", nodes, d)
		}
	}
}

// One cause leads to one call of notify, however its text varies between attempts.
func TestOneCauseNotifiesOnce(t *testing.T) {
	nodes := corev1.Resource("nodes")
	dial := func(port int, err error) error {
		return &url.Error{
			Op: "Get", URL: fmt.Sprintf("https://10.0.0.1/api/v1/nodes?timeoutSeconds=%d", 300+port),
			Err: &net.OpError{Op: "read", Net: "tcp", Source: &net.TCPAddr{Port: port}, Addr: &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 443}, Err: err},
		}
	}
	same := [][2]error{
		{dial(1, syscall.ECONNREFUSED), dial(2, syscall.ECONNREFUSED)},
		{dial(1, syscall.ECONNREFUSED), fmt.Errorf("failed to list Node: %w", dial(3, syscall.ECONNREFUSED))},
		{&url.Error{Op: "Get", URL: "https://10.0.0.1/?timeout=1", Err: io.EOF}, &url.Error{Op: "Get", URL: "https://10.0.0.1/?timeout=2", Err: io.EOF}},
		{apierrors.NewForbidden(nodes, "", errors.New("can't watch")), fmt.Errorf("failed to list: %w", apierrors.NewForbidden(nodes, "", errors.New("can't list")))},
	}
	other := [][2]error{
		{dial(1, syscall.ECONNREFUSED), dial(1, syscall.EHOSTUNREACH)},
		{dial(1, syscall.ECONNREFUSED), apierrors.NewForbidden(nodes, "", errors.New("can't list"))},
		{&url.Error{Op: "Get", URL: "https://10.0.0.1/", Err: io.EOF}, &url.Error{Op: "Get", URL: "https://10.0.0.1/", Err: io.ErrUnexpectedEOF}},
		{apierrors.NewUnauthorized("who are you"), apierrors.NewForbidden(nodes, "", errors.New("can't list"))},
	}
	for want, pairs := range map[int][][2]error{1: same, 2: other} {
		for _, pair := range pairs {
			s, news := newSource(t)
			s.recordError(pair[0])
			s.recordError(nil) // connected, yet no list came of it
			s.recordError(pair[1])
			if *news != want {
				t.Errorf("%q, then %q: told %d times, want %d", pair[0], pair[1], *news, want)
			}
		}
	}
}

// A list is from the server's cache if the request for its first page has version 0.
func TestListFromTheCache(t *testing.T) {
	stream := true
	for name, c := range map[string]struct {
		asked []metav1.ListOptions
		want  bool
	}{
		"version 0":             {[]metav1.ListOptions{{ResourceVersion: "0"}}, true},
		"version 0, two pages":  {[]metav1.ListOptions{{ResourceVersion: "0"}, {Continue: "more"}}, true},
		"a version":             {[]metav1.ListOptions{{ResourceVersion: "0"}, {ResourceVersion: "7"}}, false},
		"the newest":            {[]metav1.ListOptions{{ResourceVersion: "0"}, {}}, false},
		"a stream":              {[]metav1.ListOptions{{ResourceVersion: "0"}, {Watch: true, SendInitialEvents: &stream}}, false},
		"a stream, then a list": {[]metav1.ListOptions{{Watch: true, SendInitialEvents: &stream}, {ResourceVersion: "0"}}, true},
	} {
		s, _ := newSource(t)
		for _, opts := range c.asked {
			s.began(opts)
		}
		lists(t, s, 2)
		if got := s.View().Cached; got != c.want {
			t.Errorf("%s: from the cache %t, want %t", name, got, c.want)
		}
	}
}

// The state of our own Node is there as long as the Node, whatever happens to others.
func TestOwnState(t *testing.T) {
	s, news := newSource(t)
	s.Own = "node1"
	with := apiserver.Node1()
	with.Spec.Taints = []corev1.Taint{{Key: "a"}}
	for _, c := range []struct {
		what   string
		err    func() error
		taints int // -1: there is no Node of ours
		news   int
	}{
		{"a peer", func() error { return s.Add(wire(apiserver.Peer(2))) }, -1, 1},
		{"our Node", func() error { return s.Add(wire(apiserver.Node1())) }, 0, 1},
		{"our Node again", func() error { return s.Update(wire(apiserver.Node1())) }, 0, 0},
		{"a taint", func() error { return s.Update(wire(with)) }, 1, 1},
		{"another peer", func() error { return s.Add(wire(apiserver.Peer(3))) }, 1, 1},
		{"a peer is gone", func() error { return s.Delete(wire(apiserver.Peer(2))) }, 1, 1},
		{"our Node is gone", func() error { return s.Delete(wire(with)) }, -1, 1},
		{"a list with it", func() error { return s.Replace([]any{wire(with), wire(apiserver.Peer(2))}, "") }, 1, 1},
		{"a list without it", func() error { return s.Replace([]any{wire(apiserver.Peer(2))}, "") }, -1, 1},
	} {
		before := *news
		if err := c.err(); err != nil {
			t.Fatal(err)
		}
		got := s.View().Own
		if (got == nil) != (c.taints < 0) || got != nil && len(got.Taints) != c.taints || *news-before != c.news {
			t.Errorf("%s: its state is %+v, after %d news", c.what, got, *news-before)
		}
	}
}

// A Node that starts to match the selector is removed, and comes back when it no longer matches.
func TestNodeIgnoredForAWhile(t *testing.T) {
	selector, err := labels.Parse("type=virtual-kubelet")
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(&rest.Config{Host: "https://127.0.0.1:1"}, selector)
	if err != nil {
		t.Fatal(err)
	}
	s.notify = func() {}
	ignored := apiserver.Peer(3)
	ignored.Labels = map[string]string{"type": "virtual-kubelet"}
	for i, want := range [][]string{{"node2", "node3"}, {"node2"}, {"node2", "node3"}, {"node2"}} {
		var err error
		switch i {
		case 0:
			err = errors.Join(s.Add(wire(apiserver.Peer(2))), s.Add(wire(apiserver.Peer(3))))
		case 1:
			err = s.Update(wire(ignored))
		case 2:
			err = s.Update(wire(apiserver.Peer(3)))
		case 3:
			err = s.Replace([]any{wire(apiserver.Peer(2)), wire(ignored)}, "")
		}
		if got := names(s.View()); err != nil || !slices.Equal(got, want) {
			t.Errorf("step %d: view has %q, want %q, %v", i, got, want, err)
		}
	}
}

// A config without a valid address is an error.
func TestNoClient(t *testing.T) {
	if _, err := New(&rest.Config{Host: "http://a b"}, nil); err == nil || !strings.HasPrefix(err.Error(), "making a client for Nodes: ") {
		t.Errorf("got %v", err)
	}
}
