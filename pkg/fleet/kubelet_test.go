package fleet

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/remotecommand"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
)

// kubelet is a stand-in that forwards ports of all pods to this machine's loopback, as one with
// pods on the host's network does.
func kubelet(t *testing.T) (port int) {
	t.Helper()
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasPrefix(r.URL.Path, "/portForward/"):
			forwardPorts(w, r)
		case strings.HasPrefix(r.URL.Path, "/exec/"):
			execute(w, r)
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(server.Close)
	_, text, err := net.SplitHostPort(server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	port, err = strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// execute implements exec for pods: the first argument of a command selects how it behaves, and it
// prints the others.
func execute(w http.ResponseWriter, r *http.Request) {
	if _, err := httpstream.Handshake(r, w, []string{remotecommand.StreamProtocolV4Name}); err != nil {
		return
	}
	streams := make(chan httpstream.Stream, 3)
	conn := spdy.NewResponseUpgrader().UpgradeResponse(w, r, func(s httpstream.Stream, _ <-chan struct{}) error {
		streams <- s
		return nil
	})
	if conn == nil {
		return
	}
	defer conn.Close()
	by := map[string]httpstream.Stream{}
	for range 3 {
		s := <-streams
		by[s.Headers().Get(corev1.StreamType)] = s
	}
	command := r.URL.Query()["command"]
	end := &metav1.Status{Status: metav1.StatusSuccess}
	switch command[0] {
	case "hangs":
		<-conn.CloseChan()
		return
	case "floods":
		_, _ = io.Copy(by[corev1.StreamTypeStdout], io.LimitReader(endless{}, maxOutput+1))
	case "fails", "complains":
		end = &metav1.Status{Status: metav1.StatusFailure, Reason: remotecommand.NonZeroExitCodeReason, Details: &metav1.StatusDetails{
			Causes: []metav1.StatusCause{{Type: remotecommand.ExitCodeCauseType, Message: "1"}},
		}}
	}
	to := by[corev1.StreamTypeStdout]
	if command[0] == "complains" {
		to = by[corev1.StreamTypeStderr]
	}
	_, _ = io.WriteString(to, strings.Join(command[1:], " ")+" in "+path.Base(r.URL.Path))
	_ = json.NewEncoder(by[corev1.StreamTypeError]).Encode(end)
	for _, s := range by {
		_ = s.Close()
	}
	<-conn.CloseChan()
}

type endless struct{}

func (endless) Read(b []byte) (int, error) { return len(b), nil }

func forwardPorts(w http.ResponseWriter, r *http.Request) {
	if _, err := httpstream.Handshake(r, w, []string{portforward.PortForwardProtocolV1Name}); err != nil {
		return
	}
	streams := make(chan httpstream.Stream, 2)
	conn := spdy.NewResponseUpgrader().UpgradeResponse(w, r, func(s httpstream.Stream, _ <-chan struct{}) error {
		streams <- s
		return nil
	})
	if conn == nil {
		return
	}
	defer conn.Close()
	errorStream, data := <-streams, <-streams // the error stream comes first
	if errorStream.Headers().Get(corev1.StreamType) != corev1.StreamTypeError {
		return
	}
	to, err := net.Dial("tcp", "127.0.0.1:"+data.Headers().Get(corev1.PortHeader))
	if err != nil {
		_, _ = io.WriteString(errorStream, err.Error())
		_ = errorStream.Close()
		_ = data.Close()
		<-conn.CloseChan()
		return
	}
	go func() { // the client may close the connection before there is a response
		<-conn.CloseChan()
		_ = to.Close()
	}()
	go func() { _, _ = io.Copy(to, data) }()
	_, _ = io.Copy(data, to)
	_ = data.Close()
	_ = errorStream.Close()
	<-conn.CloseChan()
}
