package controllers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/rest"
)

const (
	// namesPerPage keeps an answer small, whoever's labels are in it.
	namesPerPage = 500
	// spread is how much longer agents wait at random before they confirm, for each
	// Node: all 5,000 of a cluster may want to at once, and take 30 s about it.
	spread = 6 * time.Millisecond
	// namesOnly asks for metadata without the rest (Metadata-only retrieval of the
	// Kubernetes API concepts): our own parser wants it in protobuf.
	namesOnly = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1," +
		"application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
)

// Confirm has all Nodes listed from etcd itself, by a quorum read that begins after
// the given time, and the view compared with it. It does not wait: once the view
// agrees there is a pass, and View tells when that was.
func (s *NodeSource) Confirm(after time.Time) {
	s.mu.Lock()
	s.doubted = after
	s.mu.Unlock()
	signal(s.ask)
}

// confirmations compares when asked, until ctx ends.
func (s *NodeSource) confirmations(ctx context.Context) {
	for {
		select {
		case <-s.ask:
			if s.answered() {
				continue
			}
			s.confirm(ctx)
		case <-ctx.Done():
			return
		}
	}
}

// answered tells whether who asked last has what they need: each pass asks again.
func (s *NodeSource) answered() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.confirmed.After(s.doubted)
}

// confirm tries until the view agrees.
func (s *NodeSource) confirm(ctx context.Context) {
	backoff := wait.Backoff{Duration: time.Second, Cap: maxBackoff * patience / 2, Steps: 20, Factor: 2, Jitter: 1}
	for delay := s.turn(); ; delay = backoff.Step() {
		select {
		case <-time.After(delay):
		case <-ctx.Done():
			return
		}
		if begin := s.begin(); s.compared(begin, s.compare(ctx)) {
			break
		}
	}
	s.notify()
}

// A comparison is of one list, the one that was there when it began.
type comparison struct {
	begin time.Time
	list  int
}

func (s *NodeSource) begin() comparison {
	s.mu.Lock()
	defer s.mu.Unlock()
	return comparison{time.Now(), s.lists}
}

// turn returns how long to wait for one's turn.
func (s *NodeSource) turn() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Duration(rand.Int64N(int64(spread) * int64(1+len(s.nodes))))
}

// errReplaced says that a list arrived which the comparison saw in part at most.
var errReplaced = errors.New("another list of Nodes arrived meanwhile")

// compared remembers the outcome of a comparison. It counts from its begin.
func (s *NodeSource) compared(c comparison, err error) (agreed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil && c.list != s.lists {
		err = errReplaced
	}
	s.doubt = essence(err)
	if err != nil {
		return false
	}
	s.confirmed, s.cached = c.begin, false
	return true
}

// compare looks for Nodes of the server that the view lacks, or has an older one
// of: what was routed for those must stay.
func (s *NodeSource) compare(ctx context.Context) error {
	opts := metav1.ListOptions{Limit: namesPerPage}
	for {
		page := &wireNodeList{}
		raw, err := rawOf(s.client.Get().Resource("nodes").SetHeader("Accept", namesOnly).
			VersionedParams(&opts, metav1.ParameterCodec).Do(ctx))
		if err == nil {
			s.hear()
			err = page.decode(raw)
		}
		if err != nil {
			return fmt.Errorf("listing Nodes to confirm: %w", err)
		}
		if name := s.missing(page.Items); name != "" {
			return fmt.Errorf("the API server has Node %s, which our list of Nodes lacks or has an older one of", name)
		}
		if opts.Continue = page.Continue; opts.Continue == "" {
			return nil
		}
	}
}

// rawOf returns the bytes of an answer, or the error with the server's words: Raw alone leaves those out.
func rawOf(answer rest.Result) ([]byte, error) {
	if err := answer.Error(); err != nil {
		return nil, err
	}
	return answer.Raw()
}

// decode reads the list in either of the languages that were asked for.
func (l *wireNodeList) decode(raw []byte) error {
	_, list, err := unwrap(raw)
	if err != nil {
		return json.Unmarshal(raw, l)
	}
	return l.Unmarshal(list)
}

// missing returns the first of the server's Nodes that the view does not know as
// well. Of one with pod subnets the identity is enough, for they never change; one
// without may have got some since.
func (s *NodeSource) missing(items []wireNode) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range items {
		item := &items[i]
		if s.ignore.Matches(labels.Set(item.Labels)) {
			continue
		}
		at, known := s.index[item.Name]
		if !known || s.nodes[at].UID != string(item.UID) || len(s.nodes[at].PodCIDRs) == 0 && s.bare[item.Name] != item.ResourceVersion {
			return item.Name
		}
	}
	return ""
}

// note remembers the version of Nodes that have no pod subnets yet.
func (s *NodeSource) note(kept *keptNode) {
	if len(kept.node.PodCIDRs) == 0 {
		s.bare[kept.Name] = kept.ResourceVersion
		return
	}
	delete(s.bare, kept.Name)
}
