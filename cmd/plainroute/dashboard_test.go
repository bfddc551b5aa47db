package main

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A dashboard prints its address on loopback, shows why it can't reach the cluster, and ends when
// it is interrupted.
func TestDashboard(t *testing.T) {
	file := filepath.Join(t.TempDir(), "kubeconfig")
	closed := `{apiVersion: v1, kind: Config, current-context: a, contexts: [{name: a, context: {cluster: a}}], clusters: [{name: a, cluster: {server: "https://127.0.0.1:1"}}]}`
	if err := os.WriteFile(file, []byte(closed), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	out, in := io.Pipe()
	root := rootCommand()
	root.SetArgs([]string{"dashboard", "--kubeconfig", file, "--interval", "1s"})
	root.SetOut(in)
	ended := make(chan error, 1)
	go func() { ended <- root.ExecuteContext(ctx) }()
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	address, _, _ := strings.Cut(line, " ")
	if u, err := url.Parse(address); err != nil || u.Hostname() != "127.0.0.1" || u.Port() == "0" {
		t.Fatalf("the address is in %q, %v", line, err)
	}
	var page struct {
		Number int
		Error  string
	}
	for end := time.Now().Add(time.Minute); page.Number == 0 && time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		answer, err := http.Get(address + "?format=json")
		if err != nil {
			t.Fatal(err)
		}
		err = json.NewDecoder(answer.Body).Decode(&page)
		if answer.Body.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if !strings.Contains(page.Error, "connection refused") {
		t.Errorf("the page has %+v", page)
	}
	cancel()
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("it ends with %v", err)
		}
	case <-time.After(time.Minute):
		t.Fatal("it doesn't end")
	}
}
