package cni

import (
	"errors"
	"io/fs"
	"os"
	"testing"

	"github.com/plainroute/plainroute/test/testutil"
)

// The saved Nodes are replaced as a whole, and only root reads them. A file that a crash left behind does not prevent that.
func TestSavedNodes(t *testing.T) {
	s := newStore(t)
	testutil.Must(t, s.makeRunDir())
	if _, err := s.ReadNodes(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("reading none: %v", err)
	}
	testutil.Must(t, os.WriteFile(s.nodes()+tempSuffix, []byte("half"), 0o644))
	for _, want := range []string{"first", "second"} {
		testutil.Must(t, s.WriteNodes([]byte(want)))
		have, err := s.ReadNodes()
		testutil.Must(t, err)
		at, err := os.Stat(s.nodes())
		testutil.Must(t, err)
		if string(have) != want || at.Mode() != 0o600 {
			t.Errorf("saved are %q, mode %s", have, at.Mode())
		}
	}
	testutil.Must(t, os.WriteFile(s.nodes()+tempSuffix, nil, 0o600))
	s.RemoveTemporary()
	if left := list(t, s.RunDir); len(left) != 1 {
		t.Errorf("left are %q", left)
	}
}
