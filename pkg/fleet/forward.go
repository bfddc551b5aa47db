package fleet

import (
	"bufio"
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	constants "k8s.io/apimachinery/pkg/util/portforward"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/client-go/transport/websocket"
	"k8s.io/streaming/pkg/httpstream"
	streamspdy "k8s.io/streaming/pkg/httpstream/spdy"
)

// Forward asks agents through port-forwards: by way of the API server and the kubelet to the loopback of the agent's
// node, so that it works whatever becomes of the pod network. No port is opened on this machine.
type Forward struct {
	Config *rest.Config
	Client kubernetes.Interface
}

// Ask is for Survey.
func (f *Forward) Ask(ctx context.Context, agent *Agent, path string) (io.ReadCloser, error) {
	return f.send(ctx, agent, http.MethodGet, path, http.NoBody)
}

// Post sends a body to what listens on a port of a pod, and gets its answer.
func (f *Forward) Post(ctx context.Context, to *Agent, path string, body []byte) (io.ReadCloser, error) {
	return f.send(ctx, to, http.MethodPost, path, bytes.NewReader(body))
}

func (f *Forward) send(ctx context.Context, agent *Agent, method, path string, question io.Reader) (io.ReadCloser, error) {
	conn, err := f.dial(ctx, agent)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { hangUp(conn) })
	body, err := ask(ctx, conn, agent.Port, method, path, question)
	if err != nil {
		stop()
		hangUp(conn)
		return nil, cmp.Or(ctx.Err(), err)
	}
	return &answer{body, func() error { stop(); return conn.Close() }}, nil
}

// answer is a body that has its connection closed.
type answer struct {
	io.ReadCloser
	hangUp func() error
}

func (a *answer) Close() error { return errors.Join(a.ReadCloser.Close(), a.hangUp()) }

// dial opens a connection by WebSocket, and by SPDY where that fails as kubectl does: an API server or a proxy before it
// may know no WebSockets (they came with Kubernetes 1.30), and a WebSocket needs the right to get pods/portforward, while
// older roles have but create.
func (f *Forward) dial(ctx context.Context, agent *Agent) (httpstream.Connection, error) {
	to := f.Client.CoreV1().RESTClient().Post().Resource("pods").Namespace(agent.Namespace).Name(agent.Pod).SubResource("portforward").URL()
	conn, err := f.webSocket(ctx, to)
	if !httpstream.IsUpgradeFailure(err) && !httpstream.IsHTTPSProxyError(err) {
		return conn, err
	}
	conn, again := f.spdy(ctx, to)
	if again != nil && apierrors.IsForbidden(cause(err)) {
		return nil, cause(err) // SPDY says the same, but as text alone
	}
	return conn, again
}

// cause is what the API server said against an upgrade.
func cause(err error) error {
	var failure *httpstream.UpgradeFailureError
	if errors.As(err, &failure) {
		return failure.Cause
	}
	return err
}

func (f *Forward) webSocket(ctx context.Context, to *url.URL) (httpstream.Connection, error) {
	transport, holder, err := websocket.RoundTripperFor(f.Config)
	if err != nil {
		return nil, fmt.Errorf("making a transport: %w", err)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, to.String(), http.NoBody)
	if err != nil {
		return nil, err
	}
	conn, err := websocket.Negotiate(transport, holder, request, constants.WebsocketsSPDYTunnelingPortForwardV1)
	if err != nil {
		return nil, err
	}
	return streamspdy.NewClientConnectionWithPings(portforward.NewTunnelingConnection("client", conn), portforward.PingPeriod)
}

func (f *Forward) spdy(ctx context.Context, to *url.URL) (httpstream.Connection, error) {
	transport, upgrader, err := spdy.RoundTripperFor(f.Config)
	if err != nil {
		return nil, fmt.Errorf("making a transport: %w", err)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, to.String(), http.NoBody)
	if err != nil {
		return nil, err
	}
	return within(ctx, func() (httpstream.Connection, error) {
		conn, _, err := spdy.NegotiateStreaming(upgrader, &http.Client{Transport: transport}, request, portforward.PortForwardProtocolV1Name)
		return conn, err
	}, hangUp)
}

// hangUp ends a connection, if there is one.
func hangUp(conn httpstream.Connection) {
	if conn != nil {
		_ = conn.Close()
	}
}

// ask sends a request over a stream of the connection. What the kubelet has to complain of comes over another.
func ask(ctx context.Context, conn httpstream.Connection, port int, method, path string, question io.Reader) (io.ReadCloser, error) {
	headers := http.Header{}
	headers.Set(corev1.PortHeader, strconv.Itoa(port))
	headers.Set(corev1.PortForwardRequestIDHeader, "0")
	headers.Set(corev1.StreamType, corev1.StreamTypeError)
	complaints, err := conn.CreateStream(headers)
	if err != nil {
		return nil, fmt.Errorf("opening a stream: %w", err)
	}
	_ = complaints.Close() // nothing goes that way
	headers.Set(corev1.StreamType, corev1.StreamTypeData)
	data, err := conn.CreateStream(headers)
	if err != nil {
		return nil, fmt.Errorf("opening a stream: %w", err)
	}
	request, err := http.NewRequestWithContext(ctx, method, "http://127.0.0.1:"+strconv.Itoa(port)+path, question)
	if err != nil {
		return nil, err
	}
	request.Close = true
	request.Header.Set("Accept", "application/json")
	request.Header.Set("Accept-Encoding", "gzip")
	if err := request.Write(data); err != nil {
		return nil, fmt.Errorf("asking: %w", err)
	}
	response, err := http.ReadResponse(bufio.NewReader(data), request)
	if err != nil {
		return nil, refusal(complaints, port, err)
	}
	if response.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(response.Body, 1<<10))
		_ = response.Body.Close()
		return nil, fmt.Errorf("it answers %s: %s", response.Status, strings.TrimSpace(string(text)))
	}
	if response.Header.Get("Content-Encoding") != "gzip" { // of an older agent
		return response.Body, nil
	}
	unpacked, err := gzip.NewReader(response.Body)
	if err != nil {
		_ = response.Body.Close()
		return nil, fmt.Errorf("unpacking its answer: %w", err)
	}
	return unpacked, nil // who closes it closes the connection too
}

// refusal is what the kubelet says about a stream that broke, else err.
func refusal(from io.Reader, port int, err error) error {
	said := make(chan string, 1)
	go func() {
		text, _ := io.ReadAll(io.LimitReader(from, 4<<10))
		said <- strings.TrimSpace(string(text))
	}()
	text := ""
	select {
	case text = <-said:
	case <-time.After(time.Second):
	}
	switch {
	case strings.Contains(text, "connection refused"):
		return fmt.Errorf("nothing listens on port %d of its node's loopback", port)
	case text != "":
		return errors.New(text)
	}
	return fmt.Errorf("reading its answer: %w", err)
}
