package kubelets

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
)

// Request is what Ask sends to a cluster, with the caller's standard streams.
type Request struct {
	// Verb is one of exec, outside, reboot, stop, start, add, load.
	Verb string   `json:"verb"`
	Node string   `json:"node,omitempty"`
	Args []string `json:"args,omitempty"`
}

// answer is the response to a Request.
type answer struct {
	Code  int    `json:"code"`
	Error string `json:"error,omitempty"`
}

// messageLimit is the size that fits into one packet of a socket with buffers of the usual size.
const messageLimit = 128 << 10

// Serve answers on a socket of that path until the context ends.
func (c *Cluster) Serve(ctx context.Context, path string) error {
	listener, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		return fmt.Errorf("listening on %s: %w", path, err)
	}
	context.AfterFunc(ctx, func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.AcceptUnix()
			if err != nil {
				return
			}
			go c.answer(ctx, conn)
		}
	}()
	return nil
}

func (c *Cluster) answer(ctx context.Context, conn *net.UnixConn) {
	defer conn.Close()
	request, streams, err := receive(conn)
	defer func() {
		for _, stream := range streams {
			stream.Close()
		}
	}()
	var code int
	if err == nil {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		go func() { // the client has gone: end its command
			_, _ = conn.Read(make([]byte, 1))
			cancel()
		}()
		code, err = c.do(ctx, request, streams)
	}
	reply := answer{Code: code}
	if err != nil {
		reply = answer{Code: 1, Error: err.Error()}
	}
	if content, err := json.Marshal(reply); err == nil {
		_, _ = conn.Write(content)
	}
}

func receive(conn *net.UnixConn) (Request, []*os.File, error) {
	var request Request
	content, oob := make([]byte, messageLimit), make([]byte, unix.CmsgSpace(3*4))
	n, oobn, _, _, err := conn.ReadMsgUnix(content, oob)
	if err != nil {
		return request, nil, fmt.Errorf("reading a request: %w", err)
	}
	var streams []*os.File
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		return request, nil, fmt.Errorf("reading a request's files: %w", err)
	}
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			return request, streams, fmt.Errorf("reading a request's files: %w", err)
		}
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			streams = append(streams, os.NewFile(uintptr(fd), "stream"))
		}
	}
	if len(streams) != 3 {
		return request, streams, fmt.Errorf("reading a request: it has %d streams, not 3", len(streams))
	}
	return request, streams, json.Unmarshal(content[:n], &request)
}

func (c *Cluster) do(ctx context.Context, request Request, streams []*os.File) (int, error) {
	switch request.Verb {
	case "add":
		node, err := c.AddNode(ctx, request.Node)
		if err == nil {
			_, err = fmt.Fprintln(streams[1], node.Name)
		}
		return 0, err
	case "load":
		return c.load(ctx, request.Args, streams)
	case "outside":
		if len(request.Args) == 0 {
			return 0, errors.New("a command is needed")
		}
		cmd := exec.CommandContext(ctx, request.Args[0], request.Args[1:]...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		return attend(cmd, streams, c.topology.Outside.Do)
	}
	node, err := c.find(request.Node)
	if err != nil {
		return 0, err
	}
	switch request.Verb {
	case "exec":
		cmd, err := c.Command(ctx, node, request.Args...)
		if err != nil {
			return 0, err
		}
		return attend(cmd, streams, func(start func() error) error { return start() })
	case "reboot":
		return 0, c.Reboot(node)
	case "stop":
		return 0, c.Stop(node)
	case "start":
		return 0, c.Start(node)
	}
	return 0, fmt.Errorf("there is no verb %q", request.Verb)
}

// load imports image archives on every node that is on.
func (c *Cluster) load(ctx context.Context, archives []string, streams []*os.File) (int, error) {
	c.mu.Lock()
	nodes := slices.Clone(c.nodes)
	c.mu.Unlock()
	for _, path := range archives {
		for _, node := range nodes {
			archive, err := os.Open(path)
			if err != nil {
				return 0, err
			}
			cmd, err := c.Command(ctx, node, "ctr", "--namespace", "k8s.io", "images", "import", "-")
			if err != nil {
				return 0, err
			}
			code, err := attend(cmd, []*os.File{archive, streams[1], streams[2]}, func(start func() error) error { return start() })
			archive.Close()
			if code != 0 || err != nil {
				return code, err
			}
		}
	}
	return 0, nil
}

// attend runs a command to its end, and kills all of its process group if the context ends first.
func attend(cmd *exec.Cmd, streams []*os.File, in func(start func() error) error) (int, error) {
	cmd.Stdin, cmd.Stdout, cmd.Stderr = streams[0], streams[1], streams[2]
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	if err := in(cmd.Start); err != nil {
		return 0, fmt.Errorf("starting %s: %w", cmd.Path, err)
	}
	err := cmd.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Exited() {
		return exit.ExitCode(), nil
	}
	return 0, err
}

// Ask sends a request to the cluster that listens on a socket of that path, and returns the exit code of its command.
func Ask(path string, request Request) (int, error) {
	conn, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		return 1, fmt.Errorf("speaking to the cluster: %w", err)
	}
	defer conn.Close()
	content, err := json.Marshal(request)
	if err != nil {
		return 1, err
	}
	rights := unix.UnixRights(int(os.Stdin.Fd()), int(os.Stdout.Fd()), int(os.Stderr.Fd()))
	if _, _, err := conn.WriteMsgUnix(content, rights, nil); err != nil {
		return 1, fmt.Errorf("speaking to the cluster: %w", err)
	}
	reply, n := make([]byte, messageLimit), 0
	if n, err = conn.Read(reply); err != nil {
		return 1, fmt.Errorf("waiting for the cluster's answer: %w", err)
	}
	var a answer
	if err := json.Unmarshal(reply[:n], &a); err != nil {
		return 1, err
	}
	if a.Error != "" {
		return a.Code, errors.New(a.Error)
	}
	return a.Code, nil
}
