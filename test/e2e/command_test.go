package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// tool finds a program among those built here, else in PATH.
func tool(name string) string {
	for _, folder := range []string{"bin/e2e", "bin/tools"} {
		path := filepath.Join(*root, folder, name)
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	return name
}

// output runs a command and returns what it prints; the error includes its standard error.
func output(ctx context.Context, stdin string, command ...string) (string, error) {
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("running %s: %w: %s", strings.Join(command, " "), err,
			strings.TrimSpace(stderr.String()+stdout.String()))
	}
	return stdout.String(), nil
}

func kubectl(ctx context.Context, args ...string) (string, error) {
	return output(ctx, "", append([]string{tool("kubectl")}, args...)...)
}

// nodeCommand is the prefix of commands that do something to a node: `$E2E_NODES exec NAME -- CMD...`, `reboot NAME`,
// and `add`, which prints the new one's name. The command depends on the kind of cluster.
func nodeCommand() []string { return strings.Fields(os.Getenv("E2E_NODES")) }

func needsNodes(t *testing.T) {
	t.Helper()
	if len(nodeCommand()) == 0 {
		t.Skip("E2E_NODES is unset: there is no way to look into the nodes of this cluster, see test/e2e/README.md")
	}
}

// onNode runs a shell command on a node, as root.
func onNode(ctx context.Context, name, command string) (string, error) {
	return output(ctx, "", append(nodeCommand(), "exec", name, "--", "sh", "-c", command)...)
}

func rebootNode(ctx context.Context, name string) error {
	_, err := output(ctx, "", append(nodeCommand(), "reboot", name)...)
	return err
}
