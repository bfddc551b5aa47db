package plugins

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/plainroute/plainroute/test/testutil"
)

// The stock plugins of our image accept CNI 1.1.0. Others, and those without build info, are left
// out, and a file that is replaced is read again.
func TestPluginsThatAcceptCNI11(t *testing.T) {
	bridge, dir := published(t), t.TempDir()
	for name, content := range map[string][]byte{
		"bridge": bridge, "portmap": bridge /* another's build info */, "host-local": []byte("#!/bin/sh\n"), "loopback": bridge[:1000],
	} {
		testutil.Must(t, os.WriteFile(filepath.Join(dir, name), content, 0o755))
	}
	f := &Folder{Path: dir}
	names := []string{"bridge", "firewall", "host-local", "loopback", "portmap"}
	for range 2 {
		if got := f.CNI11(names); !slices.Equal(got, []string{"bridge"}) {
			t.Errorf("CNI 1.1.0 is accepted by %v", got)
		}
	}
	testutil.Must(t, os.WriteFile(filepath.Join(dir, "bridge"), []byte("#!/bin/sh\n"), 0o755))
	if got := f.CNI11(names); len(got) > 0 {
		t.Errorf("CNI 1.1.0 is accepted by %v, and bridge is a script now", got)
	}
	if got := (&Folder{Path: filepath.Join(dir, "none")}).CNI11(names); len(got) > 0 {
		t.Errorf("CNI 1.1.0 is accepted by %v in a folder that is not there", got)
	}
}
