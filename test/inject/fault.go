// Package inject has the fault injectors of the tests: proxies to the API server that cut, delay or spoil requests, Node
// objects without machines, and a clock that steps.
package inject

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"strconv"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
)

// watchStream is the type of a watch in protobuf, which the agents ask for.
const watchStream = runtime.ContentTypeProtobuf + ";stream=watch"

// Refused answers with an HTTP status. A retryAfter above 0 asks to come back after so many seconds.
func Refused(code, retryAfter int) Fault {
	return func(_ http.RoundTripper, request *http.Request) (*http.Response, error) {
		body, err := encode(refusal(code))
		if err != nil {
			return nil, err
		}
		answer := respond(request, code, runtime.ContentTypeProtobuf, bytes.NewReader(body))
		if retryAfter > 0 {
			answer.Header.Set("Retry-After", strconv.Itoa(retryAfter))
		}
		return answer, nil
	}
}

func refusal(code int) *metav1.Status {
	reason := map[int]metav1.StatusReason{
		http.StatusInternalServerError: metav1.StatusReasonInternalError,
		http.StatusUnauthorized:        metav1.StatusReasonUnauthorized,
		http.StatusForbidden:           metav1.StatusReasonForbidden,
		http.StatusTooManyRequests:     metav1.StatusReasonTooManyRequests,
		http.StatusServiceUnavailable:  metav1.StatusReasonServiceUnavailable,
		http.StatusGone:                metav1.StatusReasonExpired,
		http.StatusUnprocessableEntity: metav1.StatusReasonInvalid,
	}[code]
	return &metav1.Status{
		Status: metav1.StatusFailure, Code: int32(code), Reason: reason, Message: "injected by a proxy: " + http.StatusText(code),
	}
}

// Expired begins each watch and ends it at once with the event `too old resource version`; lists pass.
func Expired(server http.RoundTripper, request *http.Request) (*http.Response, error) {
	if !isWatch(request) {
		return server.RoundTrip(request)
	}
	status, err := encode(refusal(http.StatusGone))
	if err != nil {
		return nil, err
	}
	event := metav1.WatchEvent{Type: string(watch.Error), Object: runtime.RawExtension{Raw: status}}
	content, err := event.Marshal()
	if err != nil {
		return nil, fmt.Errorf("rendering an event: %w", err)
	}
	return respond(request, http.StatusOK, watchStream, bytes.NewReader(frame(content))), nil
}

// Garbled answers watches with an event, and lists with a body, that are not valid protobuf.
func Garbled(_ http.RoundTripper, request *http.Request) (*http.Response, error) {
	junk := bytes.Repeat([]byte{0xff, 0x0a, 0x7f, 'k', '8', 's', 0}, 100)
	if isWatch(request) {
		return respond(request, http.StatusOK, watchStream, bytes.NewReader(frame(junk))), nil
	}
	return respond(request, http.StatusOK, runtime.ContentTypeProtobuf, bytes.NewReader(junk)), nil
}

// Truncated ends each answer, as if it were complete, after so many bytes: in the middle of an event or of a list.
func Truncated(after int64) Fault {
	return func(server http.RoundTripper, request *http.Request) (*http.Response, error) {
		answer, err := server.RoundTrip(request)
		if err != nil {
			return nil, err
		}
		whole := answer.Body
		setBody(answer, struct {
			io.Reader
			io.Closer
		}{io.LimitReader(whole, after), whole})
		return answer, nil
	}
}

// Silent begins each watch and never sends anything; lists pass.
func Silent(server http.RoundTripper, request *http.Request) (*http.Response, error) {
	if !isWatch(request) {
		return server.RoundTrip(request)
	}
	return respond(request, http.StatusOK, watchStream, silence{request.Context()}), nil
}

// Hanging takes requests and never answers.
func Hanging(_ http.RoundTripper, request *http.Request) (*http.Response, error) {
	<-request.Context().Done()
	return nil, request.Context().Err()
}

// WithoutStreaming behaves like a server before Kubernetes 1.34, which can't stream a list: agents then ask for pages,
// which the server may answer from its cache. Other requests go to next, or to the server if next is nil.
func WithoutStreaming(next Fault) Fault {
	refuse := Refused(http.StatusUnprocessableEntity, 0)
	return func(server http.RoundTripper, request *http.Request) (*http.Response, error) {
		switch {
		case request.URL.Query().Has("sendInitialEvents"):
			return refuse(server, request)
		case next == nil:
			return server.RoundTrip(request)
		default:
			return next(server, request)
		}
	}
}

// silence blocks readers until the request is over.
type silence struct{ ctx context.Context }

func (s silence) Read([]byte) (int, error) {
	<-s.ctx.Done()
	return 0, s.ctx.Err()
}

func isWatch(request *http.Request) bool { return request.URL.Query().Has("watch") }

// frame puts the length before an event, as the framer of k8s.io/apimachinery's protobuf serializer does.
func frame(event []byte) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(event))), event...)
}

func respond(request *http.Request, code int, contentType string, body io.Reader) *http.Response {
	answer := &http.Response{
		StatusCode: code, Request: request, Header: http.Header{},
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
	}
	answer.Header.Set("Content-Type", contentType)
	setBody(answer, io.NopCloser(body))
	return answer
}

// setBody replaces an answer's body by one of unknown length.
func setBody(answer *http.Response, body io.ReadCloser) {
	answer.Body, answer.ContentLength = body, -1
	answer.Header.Del("Content-Length")
}
