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
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/client-go/transport/websocket"
	"k8s.io/streaming/pkg/httpstream"
	streamspdy "k8s.io/streaming/pkg/httpstream/spdy"

	"github.com/plainroute/plainroute/pkg/kube"
)

// Forward sends requests to agents through port-forwards: via the API server and the kubelet to the
// loopback of the agent's node, so it does not need the pod network. No port is opened on this
// machine.
type Forward struct {
	Config *rest.Config
	Client *kube.Client
}

// Get requests a path of an agent. It is a Collector's Get.
func (f *Forward) Get(ctx context.Context, agent *Agent, path string) (io.ReadCloser, error) {
	return f.send(ctx, agent, http.MethodGet, path, http.NoBody)
}

// Post sends a body to a port of a pod, and returns the response.
func (f *Forward) Post(ctx context.Context, to *Agent, path string, body []byte) (io.ReadCloser, error) {
	return f.send(ctx, to, http.MethodPost, path, bytes.NewReader(body))
}

func (f *Forward) send(ctx context.Context, agent *Agent, method, path string, body io.Reader) (io.ReadCloser, error) {
	conn, err := f.dial(ctx, agent)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { closeConn(conn) })
	answer, err := request(ctx, conn, agent.Port, method, path, body)
	if err != nil {
		stop()
		closeConn(conn)
		return nil, cmp.Or(ctx.Err(), err)
	}
	return &response{answer, func() error { stop(); return conn.Close() }}, nil
}

// response is a body that closes its connection.
type response struct {
	io.ReadCloser
	closeConn func() error
}

func (r *response) Close() error { return errors.Join(r.ReadCloser.Close(), r.closeConn()) }

// dial opens a connection by WebSocket, and by SPDY if that fails, as kubectl does: API servers
// before Kubernetes 1.30 and some proxies lack WebSockets, and those need the right to get
// pods/portforward, while older roles have only create.
func (f *Forward) dial(ctx context.Context, agent *Agent) (httpstream.Connection, error) {
	to := f.Client.PortForwardURL(agent.Namespace, agent.Pod)
	conn, err := f.webSocket(ctx, to)
	if !httpstream.IsUpgradeFailure(err) && !httpstream.IsHTTPSProxyError(err) {
		return conn, err
	}
	conn, again := f.spdy(ctx, to)
	if again != nil && apierrors.IsForbidden(cause(err)) {
		return nil, cause(err) // SPDY's error is text only
	}
	return conn, again
}

// cause returns the API server's error for a failed upgrade.
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
	return withContext(ctx, func() (httpstream.Connection, error) {
		conn, _, err := spdy.NegotiateStreaming(upgrader, &http.Client{Transport: transport}, request, portforward.PortForwardProtocolV1Name)
		return conn, err
	}, closeConn)
}

// closeConn closes a connection, if there is one.
func closeConn(conn httpstream.Connection) {
	if conn != nil {
		_ = conn.Close()
	}
}

// request sends a request over a stream of the connection. The kubelet reports errors over another.
func request(ctx context.Context, conn httpstream.Connection, port int, method, path string, body io.Reader) (io.ReadCloser, error) {
	headers := http.Header{}
	headers.Set(corev1.PortHeader, strconv.Itoa(port))
	headers.Set(corev1.PortForwardRequestIDHeader, "0")
	headers.Set(corev1.StreamType, corev1.StreamTypeError)
	errorStream, err := conn.CreateStream(headers)
	var data httpstream.Stream
	if err == nil {
		_ = errorStream.Close() // only the kubelet writes to it
		headers.Set(corev1.StreamType, corev1.StreamTypeData)
		data, err = conn.CreateStream(headers)
	}
	if err != nil {
		return nil, fmt.Errorf("opening a stream: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://127.0.0.1:"+strconv.Itoa(port)+path, body)
	if err != nil {
		return nil, err
	}
	req.Close = true
	req.Header.Set("Accept", "application/json")
	req.Header.Set("Accept-Encoding", "gzip")
	if err := req.Write(data); err != nil {
		return nil, fmt.Errorf("sending the request: %w", err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(data), req)
	if err != nil {
		return nil, streamError(errorStream, port, err)
	}
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
		_ = resp.Body.Close()
		return nil, fmt.Errorf("its response is %s: %s", resp.Status, strings.TrimSpace(string(text)))
	}
	if resp.Header.Get("Content-Encoding") != "gzip" { // of an older agent
		return resp.Body, nil
	}
	unpacked, err := gzip.NewReader(resp.Body)
	if err != nil {
		_ = resp.Body.Close()
		return nil, fmt.Errorf("decompressing its response: %w", err)
	}
	return unpacked, nil // closing the response closes the connection
}

// streamError returns the kubelet's error for a stream that broke, else err.
func streamError(from io.Reader, port int, err error) error {
	sent := make(chan string, 1)
	go func() {
		text, _ := io.ReadAll(io.LimitReader(from, 4<<10))
		sent <- strings.TrimSpace(string(text))
	}()
	select {
	case text := <-sent:
		if strings.Contains(text, "connection refused") {
			return fmt.Errorf("nothing listens on port %d of its node's loopback", port)
		}
		if text != "" {
			return errors.New(text)
		}
	case <-time.After(time.Second):
	}
	return fmt.Errorf("reading its response: %w", err)
}
