package checks

import (
	"context"
	"encoding/json"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/plainroute/plainroute/pkg/connectivity"
)

// post asks a pod.
type post func(ctx context.Context, namespace, pod, path string, body []byte) (io.ReadCloser, error)

// testRun is a run whose pods report that all probes arrived.
func testRun(p *player) *connectivity.Run {
	return &connectivity.Run{
		Client: p.tested, Image: "localhost/plainroute:1", MaxNodes: 10, Timeout: limit, RetryBudget: limit, RefusalTimeout: time.Second,
		Notify: func(string) {}, Post: arrived,
	}
}

// arrived answers that all probes were well.
func arrived(_ context.Context, _, _, _ string, body []byte) (io.ReadCloser, error) {
	var probes []connectivity.Probe
	if err := json.Unmarshal(body, &probes); err != nil {
		return nil, err
	}
	answer, err := json.Marshal(make([]connectivity.Outcome, len(probes)))
	return io.NopCloser(strings.NewReader(string(answer))), err
}

// recorded keeps the requests to pods.
func recorded(next post, into io.Writer) post {
	var writing sync.Mutex
	return func(ctx context.Context, namespace, pod, path string, body []byte) (io.ReadCloser, error) {
		writing.Lock()
		defer writing.Unlock()
		if _, err := into.Write(body); err != nil {
			return nil, err
		}
		return next(ctx, namespace, pod, path, body)
	}
}
