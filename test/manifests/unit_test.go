package manifests

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/plainroute/plainroute/test/testutil"
)

// systemd accepts the router's unit, with its hardening, and the agent the command line in it.
func TestRouterUnit(t *testing.T) {
	agent := testutil.Agent()
	if err := testutil.Present(agent); err != nil {
		t.Skipf("%v; `make build` makes it", err)
	}
	content, err := os.ReadFile(filepath.Join(root, "config", "samples", "router", "plainroute-router.service"))
	testutil.Must(t, err)
	const installed = "/usr/local/bin/plainroute"
	_, command, found := strings.Cut(string(content), "ExecStart="+installed)
	if !found {
		t.Fatalf("the unit does not start %s:\n%s", installed, content)
	}
	command, _, _ = strings.Cut(command, "\n")
	t.Run("command", func(t *testing.T) {
		out, err := exec.CommandContext(t.Context(), agent, strings.Fields(strings.ReplaceAll(command, "/etc/plainroute", t.TempDir()))...).CombinedOutput()
		if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.ExitCode() == invalidFlags || !strings.Contains(string(out), "kubeconfig") {
			t.Errorf("%v, %s; want an error about the missing kubeconfig alone", err, out)
		}
	})
	for name, args := range map[string][]string{
		"verify":   {"verify", "--man=no"},
		"security": {"security", "--offline=yes", "--no-pager", "--threshold=30"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := exec.LookPath("systemd-analyze"); err != nil {
				t.Skipf("%v; Debian's package systemd has it", err)
			}
			unit := filepath.Join(t.TempDir(), "plainroute-router.service")
			testutil.Must(t, os.WriteFile(unit, []byte(strings.ReplaceAll(string(content), installed, agent)), 0o644))
			out, err := exec.CommandContext(t.Context(), "systemd-analyze", append(args, unit)...).CombinedOutput()
			if strings.Contains(string(out), "unrecognized option") {
				t.Skipf("%s; systemd 250 has it", out)
			}
			// An unknown key or value is a message with its line, and no error.
			if err != nil || strings.Contains(string(out), unit+":") {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

// invalidFlags is the agent's exit code for them.
const invalidFlags = 2
