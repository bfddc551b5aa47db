package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"

	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/spdy"

	"github.com/plainroute/plainroute/test/e2e/talk"
)

// lines are those to pods. They go by way of the API server and the kubelet to the pod's own loopback, so that they work
// whatever becomes of the network that is tested.
type lines struct {
	mu   sync.Mutex
	open map[string]*line // by container: a restarted pod is a new one
}

type line struct {
	port   uint16
	ended  chan struct{}
	hangUp func()
}

func (l *lines) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, one := range l.open {
		one.hangUp()
	}
	l.open = nil
}

// line is the one to the pod; it is opened when there is none, or when it broke.
func (c *cluster) line(ctx context.Context, to pod) (*line, error) {
	c.lines.mu.Lock()
	defer c.lines.mu.Unlock()
	if one := c.lines.open[to.container]; one != nil && !one.isBroken() {
		return one, nil
	}
	one, err := c.dial(ctx, to)
	if err != nil {
		return nil, fmt.Errorf("opening a line to pod %s: %w", to.name, err)
	}
	if c.lines.open == nil {
		c.lines.open = map[string]*line{}
	}
	c.lines.open[to.container] = one
	return one, nil
}

func (l *line) isBroken() bool {
	select {
	case <-l.ended:
		return true
	default:
		return false
	}
}

func (c *cluster) dial(ctx context.Context, to pod) (*line, error) {
	transport, upgrader, err := spdy.RoundTripperFor(c.config)
	if err != nil {
		return nil, err
	}
	url := c.api.CoreV1().RESTClient().Post().Resource("pods").Namespace(to.namespace).Name(to.name).SubResource("portforward").URL()
	dialer := spdy.NewDialerForStreaming(upgrader, &http.Client{Transport: transport}, http.MethodPost, url)
	stop, ready, ended := make(chan struct{}), make(chan struct{}), make(chan struct{})
	var output bytes.Buffer
	forwarder, err := portforward.NewOnAddressesForStreaming(dialer, []string{"127.0.0.1"},
		[]string{fmt.Sprintf("0:%d", to.port)}, stop, ready, io.Discard, &output)
	if err != nil {
		return nil, err
	}
	failure := make(chan error, 1)
	go func() {
		defer close(ended)
		failure <- forwarder.ForwardPorts()
	}()
	select {
	case err := <-failure:
		return nil, fmt.Errorf("forwarding port %d: %w", to.port, err)
	case <-ctx.Done():
		close(stop)
		return nil, ctx.Err()
	case <-ready:
	}
	ports, err := forwarder.GetPorts()
	if err != nil {
		close(stop)
		return nil, err
	}
	return &line{port: ports[0].Local, ended: ended, hangUp: sync.OnceFunc(func() { close(stop) })}, nil
}

// send sends a request over a line, with what as JSON in it, and reads the answer into answer.
func (c *cluster) send(ctx context.Context, to pod, method, path string, what, answer any) error {
	over, err := c.line(ctx, to)
	if err != nil {
		return err
	}
	body, err := json.Marshal(what)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, method, fmt.Sprintf("http://127.0.0.1:%d%s", over.port, path), bytes.NewReader(body))
	if err != nil {
		return err
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Do(request)
	if err != nil {
		return fmt.Errorf("asking pod %s: %w", to.name, err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", response.Status, strings.TrimSpace(string(text)))
	}
	if err != nil {
		return fmt.Errorf("asking pod %s: %w", to.name, err)
	}
	return json.Unmarshal(text, answer)
}

// ask lets a pod ask questions.
func (c *cluster) ask(ctx context.Context, from pod, questions []talk.Question) ([]talk.Answer, error) {
	var answers []talk.Answer
	if err := c.send(ctx, from, http.MethodPost, "/ask", questions, &answers); err != nil {
		return nil, err
	}
	if len(answers) != len(questions) {
		return nil, fmt.Errorf("pod %s gave %d answers to %d questions", from.name, len(answers), len(questions))
	}
	return answers, nil
}
