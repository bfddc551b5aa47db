package fleet

import (
	"context"
	"errors"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/util/exec"
	"k8s.io/streaming/pkg/httpstream"

	"github.com/plainroute/plainroute/pkg/kube"
	"github.com/plainroute/plainroute/pkg/problem"
)

// Visit calls a function for each Row whose agent runs, Parallel at a time, each within the
// Timeout. A Row whose call fails has the reason.
func (s *Collector) Visit(ctx context.Context, do func(context.Context, *Row) error) ([]Row, error) {
	rows, pods, err := find(ctx, s.Client, s.Namespace)
	if err != nil {
		return nil, err
	}
	err = s.each(ctx, running(rows, pods), func(ctx context.Context, row *Row) {
		switch err := do(ctx, row); {
		case err == nil:
		case apierrors.IsForbidden(err):
			row.NoReport, row.Message = problem.Forbidden, fmt.Sprintf("you lack the right to create pods/exec in the namespace %s (and to get it, before Kubernetes 1.35), by which commands run in agents' pods", row.Agent.Namespace)
		default:
			row.NoReport, row.Message = s.noReport(err, row)
		}
	})
	if err != nil {
		return nil, err
	}
	return rows, nil
}

// Exec runs commands in agents' pods, through the API server and the kubelet as kubectl exec does.
type Exec struct {
	Config *rest.Config
	Client *kube.Client
}

const (
	maxOutput = 4 << 20 // far more than any command of ours writes
	maxStderr = 1 << 10 // bounds an error message
)

// Run runs a command in the agent's container and returns its output, even if its exit code is not
// 0. Without output it returns an error with what it wrote to stderr.
func (e *Exec) Run(ctx context.Context, agent *Agent, command ...string) ([]byte, error) {
	stdout, stderr := &limited{left: maxOutput}, &limited{left: maxStderr}
	err := e.stream(ctx, agent, command, remotecommand.StreamOptions{Stdout: stdout, Stderr: stderr})
	var exit exec.CodeExitError
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case errors.As(err, &exit) && len(stdout.kept) == 0:
		return nil, fmt.Errorf("%s ends with %d: %s", command[0], exit.Code, strings.TrimSpace(string(stderr.kept)))
	case err != nil && !errors.As(err, &exit):
		return nil, err
	case stdout.left == 0:
		return nil, fmt.Errorf("%s writes more than %d bytes", command[0], maxOutput)
	}
	return stdout.kept, nil
}

// stream uses WebSocket, and SPDY if that fails; see Forward.dial.
func (e *Exec) stream(ctx context.Context, agent *Agent, command []string, streams remotecommand.StreamOptions) error {
	to := e.Client.ExecURL(agent.Namespace, agent.Pod, &corev1.PodExecOptions{Container: agent.Container, Command: command, Stdout: true, Stderr: true})
	socket, err := remotecommand.NewWebSocketExecutor(e.Config, "GET", to.String())
	if err != nil {
		return fmt.Errorf("making a transport: %w", err)
	}
	err = socket.StreamWithContext(ctx, streams)
	if !httpstream.IsUpgradeFailure(err) && !httpstream.IsHTTPSProxyError(err) {
		return err
	}
	spdy, again := remotecommand.NewSPDYExecutor(e.Config, "POST", to)
	if again != nil {
		return fmt.Errorf("making a transport: %w", again)
	}
	_, again = withContext(ctx, func() (struct{}, error) { return struct{}{}, spdy.StreamWithContext(ctx, streams) }, func(struct{}) {})
	var exit exec.CodeExitError
	if again != nil && !errors.As(again, &exit) && apierrors.IsForbidden(cause(err)) {
		return cause(err) // SPDY's error is text only
	}
	return again
}

// limited keeps the first bytes that are written, and discards the rest.
type limited struct {
	kept []byte
	left int
}

func (l *limited) Write(b []byte) (int, error) {
	some := b[:min(len(b), l.left)]
	l.kept, l.left = append(l.kept, some...), l.left-len(some)
	return len(b), nil
}

// withContext returns when the context ends, even if the call doesn't: SPDY's round trip reads
// without a deadline. A late result is passed to drop.
func withContext[T any](ctx context.Context, call func() (T, error), drop func(T)) (T, error) {
	type outcome struct {
		value T
		err   error
	}
	done := make(chan outcome, 1)
	go func() {
		value, err := call()
		done <- outcome{value, err}
	}()
	select {
	case o := <-done:
		return o.value, o.err
	case <-ctx.Done():
		go func() { drop((<-done).value) }()
		var none T
		return none, ctx.Err()
	}
}
