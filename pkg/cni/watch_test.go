package cni

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/plainroute/plainroute/test/testutil"
)

// A router has no CNI folder: that is not an error, one watch lasts, and changes in a folder that
// is created later are reported.
func TestWatchWithoutACNIFolder(t *testing.T) {
	dir := t.TempDir()
	s := Store{ConfDir: filepath.Join(dir, "net.d"), RunDir: filepath.Join(dir, "run")}
	testutil.Must(t, os.Mkdir(s.RunDir, 0o755))
	ctx, cancel := context.WithCancel(t.Context())
	news, done := make(chan struct{}, 100), make(chan error)
	go func() {
		done <- s.Watch(ctx, func() { news <- struct{}{} }, func(err error) {
			if err != nil {
				t.Error(err)
			}
		})
	}()
	expect := func(of string) {
		select {
		case <-news:
		case <-time.After(time.Minute):
			t.Fatalf("no news of %s", of)
		}
	}
	expect("the folder that is there")
	time.Sleep(retryInterval + retryInterval/2)
	if len(news) > 0 {
		t.Errorf("%d news more of two folders of which one is there", len(news))
	}
	testutil.Must(t, os.Mkdir(s.ConfDir, 0o755))
	expect("the folder that is there now")
	testutil.Must(t, os.WriteFile(filepath.Join(s.ConfDir, "05-other.conf"), nil, 0o644))
	expect("the file")
	cancel()
	testutil.Must(t, <-done)
}

// A removed folder without a mount is created again.
func TestRemovedFolderIsNoDeadMount(t *testing.T) {
	dir := t.TempDir()
	s := Store{ConfDir: filepath.Join(dir, "net.d"), RunDir: filepath.Join(dir, "run")}
	testutil.Must(t, os.Mkdir(s.ConfDir, 0o755))
	testutil.Must(t, s.Write(dualStack()))
	testutil.Must(t, os.RemoveAll(s.RunDir))
	testutil.Must(t, s.Mounted())
	testutil.Must(t, s.Write(dualStack()))
	if s.Read() == nil {
		t.Error("no config")
	}
	testutil.Must(t, os.RemoveAll(s.ConfDir))
	if err := s.Write(dualStack()); errors.As(err, new(*RemovedError)) || err == nil {
		t.Errorf("got %v", err)
	}
}
