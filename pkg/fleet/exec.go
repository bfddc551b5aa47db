package fleet

import (
	"context"
	"errors"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/util/exec"
	"k8s.io/streaming/pkg/httpstream"

	"github.com/plainroute/plainroute/pkg/problem"
)

// Visit does something with each Row whose agent runs, as Run asks them: so many at a
// time, each within the Timeout. Where it comes to nothing the Row says why.
func (s *Survey) Visit(ctx context.Context, do func(context.Context, *Row) error) ([]Row, error) {
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

// Exec runs commands in agents' pods, by way of the API server and the kubelet as kubectl exec does.
type Exec struct {
	Config *rest.Config
	Client kubernetes.Interface
}

// maxSaid is far more than any command of ours says, and maxComplaint than what of its complaints is told.
const (
	maxSaid      = 4 << 20
	maxComplaint = 1 << 10
)

// Run runs a command in the agent's container and returns what it wrote, also where it ended with another exit code
// than 0; if it wrote nothing, that is the error, with its complaint.
func (e *Exec) Run(ctx context.Context, agent *Agent, command ...string) ([]byte, error) {
	said, complaint := &limited{left: maxSaid}, &limited{left: maxComplaint}
	err := e.stream(ctx, agent, command, remotecommand.StreamOptions{Stdout: said, Stderr: complaint})
	var exit exec.CodeExitError
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case errors.As(err, &exit) && len(said.kept) == 0:
		return nil, fmt.Errorf("%s ends with %d: %s", command[0], exit.Code, strings.TrimSpace(string(complaint.kept)))
	case err != nil && !errors.As(err, &exit):
		return nil, err
	case said.left == 0:
		return nil, fmt.Errorf("%s writes more than %d bytes", command[0], maxSaid)
	}
	return said.kept, nil
}

// stream goes by WebSocket, and by SPDY where that fails, for the reasons that Forward has.
func (e *Exec) stream(ctx context.Context, agent *Agent, command []string, streams remotecommand.StreamOptions) error {
	to := e.Client.CoreV1().RESTClient().Post().Resource("pods").Namespace(agent.Namespace).Name(agent.Pod).SubResource("exec").
		VersionedParams(&corev1.PodExecOptions{Container: agent.Container, Command: command, Stdout: true, Stderr: true}, scheme.ParameterCodec).URL()
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
	_, again = within(ctx, func() (struct{}, error) { return struct{}{}, spdy.StreamWithContext(ctx, streams) }, func(struct{}) {})
	var exit exec.CodeExitError
	if again != nil && !errors.As(again, &exit) && apierrors.IsForbidden(cause(err)) {
		return cause(err) // SPDY says the same, but as text alone
	}
	return again
}

// limited keeps the first so many bytes that are written, and takes the rest for nothing.
type limited struct {
	kept []byte
	left int
}

func (l *limited) Write(b []byte) (int, error) {
	some := b[:min(len(b), l.left)]
	l.kept, l.left = append(l.kept, some...), l.left-len(some)
	return len(b), nil
}
