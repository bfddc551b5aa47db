package cni

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// A router has no CNI folder: that is no fault, one watch lasts, and what is made of the folder later is seen.
func TestWatchWithoutACNIFolder(t *testing.T) {
	dir := t.TempDir()
	s := Store{ConfDir: filepath.Join(dir, "net.d"), RunDir: filepath.Join(dir, "run")}
	must(t, os.Mkdir(s.RunDir, 0o755))
	ctx, cancel := context.WithCancel(t.Context())
	news, done := make(chan struct{}, 100), make(chan error)
	go func() {
		done <- s.Watch(ctx, func() { news <- struct{}{} }, func(err error) {
			if err != nil {
				t.Error(err)
			}
		})
	}()
	time.Sleep(look + look/2)
	if len(news) != 1 {
		t.Errorf("%d news of two folders of which one is there", len(news))
	}
	must(t, os.Mkdir(s.ConfDir, 0o755))
	time.Sleep(look + look/2)
	must(t, os.WriteFile(filepath.Join(s.ConfDir, "05-other.conf"), nil, 0o644))
	deadline := time.After(5 * time.Second)
	for n := 0; n < 3; n++ {
		select {
		case <-news:
		case <-deadline:
			t.Fatalf("%d news; want one of each folder and one of the file", n)
		}
	}
	cancel()
	must(t, <-done)
}

// A folder that is removed where nothing is mounted is simply made anew.
func TestRemovedFolderIsNoDeadMount(t *testing.T) {
	dir := t.TempDir()
	s := Store{ConfDir: filepath.Join(dir, "net.d"), RunDir: filepath.Join(dir, "run")}
	must(t, os.Mkdir(s.ConfDir, 0o755))
	must(t, s.Write(dualStack()))
	must(t, os.RemoveAll(s.RunDir))
	must(t, s.Mounted())
	must(t, s.Write(dualStack()))
	if s.Read() == nil {
		t.Error("no config")
	}
	must(t, os.RemoveAll(s.ConfDir))
	if err := s.Write(dualStack()); errors.As(err, new(*RemovedError)) || err == nil {
		t.Errorf("got %v", err)
	}
}
