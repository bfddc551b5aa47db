package kubelets

import (
	"os"
	"path/filepath"
	"testing"
)

// Nodes share the images, but not the folders that containerd writes to.
func TestStockIsShared(t *testing.T) {
	s := &stock{t.TempDir()}
	const layer, database = "root/snapshots/1/fs/bin/program", "root/meta.db"
	for name, mode := range map[string]os.FileMode{layer: 0o755, database: 0o600} {
		path := filepath.Join(s.dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o711); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("as it was"), mode); err != nil {
			t.Fatal(err)
		}
	}
	node := filepath.Join(s.dir, "node/var/lib/containerd")
	if err := s.give(node); err != nil {
		t.Fatal(err)
	}
	for name, shared := range map[string]bool{"snapshots/1/fs/bin/program": true, "meta.db": false} {
		ours, err := os.Stat(filepath.Join(s.dir, "root", name))
		if err != nil {
			t.Fatal(err)
		}
		theirs, err := os.Stat(filepath.Join(node, name))
		if err != nil {
			t.Fatal(err)
		}
		if os.SameFile(ours, theirs) != shared || ours.Mode() != theirs.Mode() || ours.Size() != theirs.Size() {
			t.Errorf("%s: %v was given as %v; to be shared: %t", name, ours, theirs, shared)
		}
	}
	if folder, err := os.Stat(filepath.Join(node, "snapshots")); err != nil || folder.Mode().Perm() != 0o711 {
		t.Errorf("a folder with the rights 0711 was given as %v, %v", folder, err)
	}
}
