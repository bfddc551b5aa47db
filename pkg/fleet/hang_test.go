package fleet

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/client-go/rest"

	"github.com/plainroute/plainroute/pkg/kube"
	"github.com/plainroute/plainroute/test/testutil"
)

// A proxy that never responds, at once or after it has refused WebSockets, delays a command no
// longer than an agent may take.
func TestProxyThatHangs(t *testing.T) {
	var refuses atomic.Bool
	ended := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if refuses.Load() && r.Header.Get("Upgrade") == "websocket" {
			http.Error(w, "no WebSockets here", http.StatusBadRequest)
			return
		}
		<-ended
	}))
	t.Cleanup(server.Close)
	t.Cleanup(func() { close(ended) })
	config := &rest.Config{Host: server.URL}
	client, err := kube.New(config)
	testutil.Must(t, err)
	agent := &Agent{Namespace: namespace, Pod: "plainroute-1", Container: "agent", Port: 9472}
	asks := map[string]func(context.Context) error{
		"a port-forward": func(ctx context.Context) error {
			_, err := (&Forward{Config: config, Client: client}).Get(ctx, agent, "/status")
			return err
		},
		"a command": func(ctx context.Context) error {
			_, err := (&Exec{Config: config, Client: client}).Run(ctx, agent, "says")
			return err
		},
	}
	for _, refused := range []bool{false, true} {
		refuses.Store(refused)
		for what, ask := range asks {
			t.Run(fmt.Sprintf("%s, WebSockets refused: %t", what, refused), func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
				defer cancel()
				done := make(chan error, 1)
				go func() { done <- ask(ctx) }()
				select {
				case err := <-done:
					if err == nil {
						t.Error("it ends well")
					}
				case <-time.After(time.Minute):
					t.Error("it hangs")
				}
			})
		}
	}
}
