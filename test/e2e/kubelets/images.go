package kubelets

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// stock is a containerd's folder with all images, unpacked. Nodes get links to its files: each
// image is unpacked once, and is in memory once. A runtime never writes to them, because containers
// have an overlay of their own.
type stock struct{ dir string }

// stockConfig has only the plugins that images need.
const stockConfig = `version = 2
root = "%[1]s/root"
state = "%[1]s/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = "%[1]s/containerd.sock"
`

// newStock fills a folder by a containerd of its own.
func (c *Cluster) newStock(ctx context.Context) (*stock, error) {
	s := &stock{filepath.Join(c.config.Dir, "images")}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the folder of images: %w", err)
	}
	config, socket := filepath.Join(s.dir, "containerd.toml"), filepath.Join(s.dir, "containerd.sock")
	if err := os.WriteFile(config, fmt.Appendf(nil, stockConfig, s.dir), 0o644); err != nil {
		return nil, fmt.Errorf("configuring a containerd: %w", err)
	}
	log, err := c.openLog("images")
	if err != nil {
		return nil, err
	}
	defer log.Close()
	programs := filepath.Join(c.config.Bin, "e2e", "debian", "usr", "bin")
	containerd := exec.CommandContext(ctx, filepath.Join(programs, "containerd"), "--config", config)
	containerd.Stdout, containerd.Stderr, containerd.Dir = log, log, s.dir
	containerd.Cancel = func() error { return containerd.Process.Signal(unix.SIGTERM) }
	if err := containerd.Start(); err != nil {
		return nil, fmt.Errorf("starting a containerd: %w", err)
	}
	err = s.fill(ctx, filepath.Join(programs, "ctr"), socket, c.config.Images, log)
	// Its databases are whole when it has ended.
	return s, errors.Join(err, containerd.Process.Signal(unix.SIGTERM), containerd.Wait())
}

func (s *stock) fill(ctx context.Context, ctr, socket string, archives []string, log io.Writer) error {
	if err := poll(func() error { return answers(socket) }); err != nil {
		return err
	}
	for _, archive := range archives {
		cmd := exec.CommandContext(ctx, ctr, "--address", socket, "--namespace", "k8s.io", "images", "import", archive)
		cmd.Stdout, cmd.Stderr = log, log
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("importing %s: %w", archive, err)
		}
	}
	return nil
}

// answers returns an error unless a server listens on a socket.
func answers(socket string) error {
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		return fmt.Errorf("waiting for containerd: %w", err)
	}
	return conn.Close()
}

// give puts the images into the empty folder of a node's containerd.
func (s *stock) give(to string) error {
	from := filepath.Join(s.dir, "root")
	err := filepath.WalkDir(from, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return give(path, filepath.Join(to, strings.TrimPrefix(path, from)), entry)
	})
	if err != nil {
		return fmt.Errorf("giving a node its images: %w", err)
	}
	return nil
}

func give(from, to string, entry fs.DirEntry) error {
	switch {
	case entry.IsDir():
		return giveFolder(from, to)
	case strings.HasSuffix(from, ".db"): // which a containerd writes to
		content, err := os.ReadFile(from)
		if err != nil {
			return err
		}
		return os.WriteFile(to, content, 0o600)
	}
	return os.Link(from, to)
}

// giveFolder makes one with the same owner and rights: an image may have them so.
func giveFolder(from, to string) error {
	at, err := os.Stat(from)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	if owner, ok := at.Sys().(*syscall.Stat_t); ok {
		if err := os.Chown(to, int(owner.Uid), int(owner.Gid)); err != nil {
			return err
		}
	}
	return os.Chmod(to, at.Mode())
}
