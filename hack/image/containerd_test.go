package main

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// containerd is one that runs in a mount namespace of its own, with everything in one folder.
type containerd struct {
	ctr, socket, root string
}

// startContainerd takes containerd and ctr from $CONTAINERD_BIN, or from where hack/binaries.sh puts them.
func startContainerd(t *testing.T) *containerd {
	t.Helper()
	bin := os.Getenv("CONTAINERD_BIN")
	if bin == "" {
		bin = "../../bin/e2e/debian/usr/bin"
	}
	bin, err := filepath.Abs(bin)
	must(t, err)
	if _, err := os.Stat(filepath.Join(bin, "containerd")); err != nil || os.Getuid() != 0 {
		t.Skip("this takes root, and containerd in CONTAINERD_BIN, or of make e2e-assets")
	}
	dir := t.TempDir()
	c := &containerd{filepath.Join(bin, "ctr"), filepath.Join(dir, "sock"), filepath.Join(dir, "root")}
	config := fmt.Sprintf("version = 2\nroot = %q\nstate = %q\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = %q\n[ttrpc]\naddress = %q\n",
		c.root, filepath.Join(dir, "state"), c.socket, c.socket+".ttrpc")
	write(t, filepath.Join(dir, "config.toml"), config, 0o644)
	cmd := exec.CommandContext(t.Context(), filepath.Join(bin, "containerd"), "-c", filepath.Join(dir, "config.toml"))
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS, Cloneflags: unix.CLONE_NEWPID, Pdeathsig: unix.SIGKILL}
	must(t, cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended by itself
		<-ended
		if t.Failed() {
			t.Log(log.String())
		}
	})
	for limit := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		if _, err := c.try(t.Context(), "images", "ls"); err == nil {
			return c
		} else if time.Now().After(limit) {
			t.Fatal("containerd does not answer: ", err)
		}
	}
}

// try runs ctr as kind does, in the namespace of Kubernetes.
func (c *containerd) try(ctx context.Context, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, c.ctr, append([]string{"--address", c.socket, "--namespace", "k8s.io"}, args...)...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("ctr %v: %w\n%s", args, err, out)
	}
	return string(out), nil
}

func (c *containerd) do(t *testing.T, args ...string) string {
	t.Helper()
	out, err := c.try(t.Context(), args...)
	must(t, err)
	return out
}

// unpacked counts the files of a name that were unpacked.
func (c *containerd) unpacked(t *testing.T, name string) int {
	t.Helper()
	n := 0
	must(t, filepath.WalkDir(c.root, func(path string, _ fs.DirEntry, err error) error {
		if filepath.Base(path) == name {
			n++
		}
		return err
	}))
	return n
}

// A real containerd takes the archive, for its own platform, and for all as by `kind load image-archive`.
func TestContainerd(t *testing.T) {
	c := startContainerd(t)
	path, _ := made(t, source(t), both)
	outer, entry := open(t, path)
	imports := []string{"images", "import", "--snapshotter", "native"} // overlayfs isn't available everywhere
	if strings.Contains(c.do(t, "images", "import", "--help"), "--local") {
		imports = append(imports, "--local") // else containerd 2 unpacks with its default snapshotter only
	}
	c.do(t, append(imports, path)...)
	if n := c.unpacked(t, "hello"); n != 1 {
		t.Errorf("%d programs were unpacked", n)
	}
	list := c.do(t, "images", "ls", "name==localhost/hello:1")
	for _, part := range []string{"localhost/hello:1 ", entry.Digest.String(), both} {
		if !strings.Contains(list, part) {
			t.Errorf("%q is not in:\n%s", part, list)
		}
	}
	c.do(t, append(imports, "--all-platforms", "--digests", path)...)
	index, err := outer.ImageIndex(entry.Digest)
	must(t, err)
	manifest, err := index.IndexManifest()
	must(t, err)
	content := c.do(t, "content", "ls", "-q")
	for _, m := range manifest.Manifests {
		if !strings.Contains(content, m.Digest.String()) {
			t.Errorf("the image for %s is not there", m.Platform)
		}
	}
	if list := c.do(t, "images", "ls", "-q"); !strings.Contains(list, "@"+entry.Digest.String()) {
		t.Errorf("it is not known by its digest:\n%s", list)
	}
	if check := c.do(t, "images", "check", "--snapshotter", "native", "name==localhost/hello:1"); !strings.Contains(check, "complete") {
		t.Errorf("it is not complete:\n%s", check)
	}
}
