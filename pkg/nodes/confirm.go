package nodes

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
	namesPerPage = 500 // keeps an answer small, however large the Nodes' labels are
	// confirmJitter is the longest random wait before a quorum read, per Node: all 5,000
	// agents of a cluster may need one at once, which then takes 30 s.
	confirmJitter = 6 * time.Millisecond
	// namesOnly asks for metadata alone (metadata-only retrieval of the Kubernetes API
	// concepts), in protobuf if the server can.
	namesOnly = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1," +
		"application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
)

// Confirm starts a quorum read, which lists the Nodes from etcd, and compares it with the
// view, unless one that began after the given time has agreed. It does not wait: once a read
// agrees, notify is called and View.Confirmed is its begin.
func (s *Source) Confirm(after time.Time) {
	s.mu.Lock()
	s.confirmAfter = after
	s.mu.Unlock()
	select {
	case s.confirmRequests <- struct{}{}:
	default:
	}
}

// confirmations makes the quorum reads that Confirm asks for, until ctx ends.
func (s *Source) confirmations(ctx context.Context) {
	for {
		select {
		case <-s.confirmRequests:
			if !s.satisfied() {
				s.confirm(ctx)
			}
		case <-ctx.Done():
			return
		}
	}
}

// satisfied reports whether the last call of Confirm is satisfied: each pass calls it again.
func (s *Source) satisfied() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.view.Confirmed.After(s.confirmAfter)
}

// confirm retries until the view agrees.
func (s *Source) confirm(ctx context.Context) {
	backoff := wait.Backoff{Duration: time.Second, Cap: maxBackoff * maxScale / 2, Steps: 20, Factor: 2, Jitter: 1}
	for delay := s.confirmDelay(); ; delay = backoff.Step() {
		select {
		case <-time.After(delay):
		case <-ctx.Done():
			return
		}
		if begin := s.beginComparison(); s.endComparison(begin, s.compare(ctx)) {
			break
		}
	}
	s.notify()
}

// comparison is the time of a quorum read, and the list that the view had then.
type comparison struct {
	begin time.Time
	list  int
}

func (s *Source) beginComparison() comparison {
	s.mu.Lock()
	defer s.mu.Unlock()
	return comparison{time.Now(), s.lists}
}

// confirmDelay returns a random wait that grows with the number of Nodes.
func (s *Source) confirmDelay() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Duration(rand.Int64N(int64(confirmJitter) * int64(1+len(s.view.Nodes))))
}

// errReplaced is the outcome of a comparison during which another list arrived: the
// comparison may have seen a part of that list only.
var errReplaced = errors.New("another list of Nodes arrived meanwhile")

// endComparison records the outcome of a comparison. A confirmation counts from its begin.
func (s *Source) endComparison(c comparison, err error) (agreed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil && c.list != s.lists {
		err = errReplaced
	}
	s.view.ConfirmErr = StableError(err)
	if err != nil {
		return false
	}
	s.view.Confirmed, s.view.Cached = c.begin, false
	return true
}

// compare lists the server's Nodes, and fails if the view lacks one of them or has an older
// one: the routes of those must stay.
func (s *Source) compare(ctx context.Context) error {
	opts := metav1.ListOptions{Limit: namesPerPage}
	for {
		page := &wireNodeList{}
		raw, err := RawBody(s.client.Get().Resource("nodes").SetHeader("Accept", namesOnly).
			VersionedParams(&opts, metav1.ParameterCodec).Do(ctx))
		if err == nil {
			s.recordContact()
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

// RawBody returns the body of an answer, or the error with the server's message, which
// rest.Result.Raw leaves out.
func RawBody(answer rest.Result) ([]byte, error) {
	if err := answer.Error(); err != nil {
		return nil, err
	}
	return answer.Raw()
}

// decode reads a list in protobuf or JSON.
func (l *wireNodeList) decode(raw []byte) error {
	_, list, err := unwrap(raw)
	if err != nil {
		return json.Unmarshal(raw, l)
	}
	return l.Unmarshal(list)
}

// missing returns the name of the first of the server's Nodes that the view lacks or has an
// older one of. For a Node with pod subnets the UID is enough, because they never change; a
// Node without may have got some since.
func (s *Source) missing(items []wireNode) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range items {
		item := &items[i]
		if s.ignore.Matches(labels.Set(item.Labels)) {
			continue
		}
		at, known := s.index[item.Name]
		if !known {
			return item.Name
		}
		n := s.view.Nodes[at]
		if n.UID != string(item.UID) || len(n.PodCIDRs) == 0 && s.bare[item.Name] != item.ResourceVersion {
			return item.Name
		}
	}
	return ""
}
