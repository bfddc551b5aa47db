package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/plainroute/plainroute/test/nodelab"
	"github.com/plainroute/plainroute/test/sandbox"
)

// pidFile is beside the demo's binary, so that `demo down` finds it from any folder.
func pidFile() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("finding our own binary: %w", err)
	}
	return filepath.Join(filepath.Dir(self), "demo.pid"), nil
}

// keep records a demo that stays up, and prints commands to explore it.
func keep(pid int, config nodelab.Config) error {
	path, err := pidFile()
	if err != nil {
		return err
	}
	if err := sandbox.Note(path, pid); err != nil {
		return err
	}
	fmt.Print(hints(pid, config))
	return nil
}

// hints are commands to explore it with; those whose tool this machine lacks are left out.
func hints(pid int, config nodelab.Config) string {
	var text strings.Builder
	fmt.Fprintf(&text, "\nThe cluster stays up (process %d). To explore it:\n", pid)
	enter := fmt.Sprintf("nsenter -t %d %s ", pid, namespaces())
	for _, hint := range []struct{ tool, command string }{
		{"ip", "ip netns exec node1 ip route show proto 112"},
		{"ip", "ip netns exec node1 ip -6 route show proto 112"},
		{"ip", "ip netns exec node1-a ip address"},
		{"ip", "ip route show proto 112"},
		{"ping", "ip netns exec node1-a ping -c 3 10.244.2.2"},
		{"nft", "ip netns exec node1 nft list table inet plainroute"},
		{"curl", "ip netns exec node1 curl -s http://127.0.0.1:9472/status"},
		{"cat", "cat " + config.Dir + "/node1/net.d/10-plainroute.conflist"},
		{"tail", "tail " + config.Dir + "/node1/agent.log"},
		{"kubectl", "kubectl --kubeconfig " + config.Dir + "/admin.kubeconfig get nodes"},
		{"curl", "curl -s --cacert " + config.Dir + "/ca.crt --cert " + config.Dir + "/admin.crt --key " + config.Dir +
			"/admin.key https://192.168.1.1:6443/api/v1/nodes"},
	} {
		if path := find(hint.tool, config); path != "" {
			fmt.Fprintf(&text, "  %s%s\n", enter, strings.Replace(hint.command, hint.tool+" ", path+" ", 1))
		}
	}
	fmt.Fprintf(&text, "To take it down:\n  make demo-down\n")
	return text.String()
}

// namespaces are nsenter's flags for the sandbox's namespaces: all, or those that a user without root may enter.
func namespaces() string {
	if os.Geteuid() == 0 {
		return "-a"
	}
	return "-U --preserve-credentials -m -n -p -i"
}

// find returns how to call a tool: by its name where it is in the path, by its path where it is among our own.
func find(tool string, config nodelab.Config) string {
	if _, err := exec.LookPath(tool); err == nil {
		return tool
	}
	own := filepath.Join(config.Assets, tool)
	if _, err := os.Stat(own); err == nil {
		return own
	}
	return ""
}

// kept returns the first process of a demo that was kept, nil when none is up.
func kept() (*sandbox.Kept, error) {
	path, err := pidFile()
	if err != nil {
		return nil, err
	}
	return sandbox.Noted(path)
}

func refuseSecond() error {
	demo, err := kept()
	if err != nil || demo == nil {
		return err
	}
	defer demo.Close()
	return fmt.Errorf("a demo is up already (process %d): `make demo-down` takes it down", demo.PID)
}

// down ends the kept demo.
func down() error {
	demo, err := kept()
	if err != nil {
		return err
	}
	if demo == nil {
		fmt.Println("no demo is up")
		return nil
	}
	defer demo.Close()
	if err := demo.End(); err != nil {
		return err
	}
	path, err := pidFile()
	if err != nil {
		return err
	}
	fmt.Printf("the demo (process %d) is taken down\n", demo.PID)
	return os.Remove(path)
}
