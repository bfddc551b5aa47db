package cni

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/test/testutil"
)

// A deadStore is a Store with both folders mounted from elsewhere.
type deadStore struct {
	Store
	sources map[string]string // of what is mounted on a folder
}

// newDeadStore mounts in a namespace of the test's own, which ends with its thread.
func newDeadStore(t *testing.T) deadStore {
	t.Helper()
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		t.Skipf("can't make mount namespaces here: %v", err)
	}
	testutil.Must(t, unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	dir := t.TempDir()
	d := deadStore{Store{ConfDir: filepath.Join(dir, "net.d"), RunDir: filepath.Join(dir, "run")}, map[string]string{}}
	for _, folder := range []string{d.ConfDir, d.RunDir} {
		source := folder + "-on-the-host"
		testutil.Must(t, os.Mkdir(source, 0o755))
		testutil.Must(t, os.Mkdir(folder, 0o755))
		testutil.Must(t, unix.Mount(source, folder, "", unix.MS_BIND, ""))
		t.Cleanup(func() { testutil.Must(t, unix.Unmount(folder, unix.MNT_DETACH)) })
		d.sources[folder] = source
	}
	return d
}

func (d deadStore) remove(t *testing.T, folder string) {
	t.Helper()
	testutil.Must(t, os.Remove(d.sources[folder]))
}

func isRemoved(err error, folder string) bool {
	var removed *RemovedError
	return errors.As(err, &removed) && removed.Folder == folder && strings.Contains(err.Error(), folder+" was removed")
}

// The error of a folder that was removed on the host has its name, and nothing is written to it.
func TestDeadMountIsTold(t *testing.T) {
	for _, which := range []func(Store) string{func(s Store) string { return s.ConfDir }, func(s Store) string { return s.RunDir }} {
		d := newDeadStore(t)
		testutil.Must(t, d.Mounted())
		folder := which(d.Store)
		d.remove(t, folder)
		if err := d.Mounted(); !isRemoved(err, folder) {
			t.Errorf("of %s it says %v", folder, err)
		}
		if err := d.Write(dualStack()); !isRemoved(err, folder) {
			t.Errorf("writing without %s says %v", folder, err)
		}
		lock, err := d.TakeLock()
		if folder == d.RunDir && !isRemoved(err, folder) {
			t.Errorf("locking in the dead %s says %v", folder, err)
		}
		if lock != nil {
			testutil.Must(t, lock.Close())
		}
	}
}

// A folder whose name ends as the kernel marks a dead one is alive.
func TestFolderWithAMarkInItsName(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "run (deleted)")
	testutil.Must(t, os.Mkdir(folder, 0o755))
	if removed(folder) || removed(folder+"not there") {
		t.Errorf("%s counts as removed, or what is not there does", folder)
	}
}

// A watch ends when a folder is removed, and goes on if one was removed before: a new container
// would not help.
func TestWatchOfADeadMount(t *testing.T) {
	d := newDeadStore(t)
	once := false
	err := d.Watch(t.Context(), func() {
		if !once {
			once = true
			d.remove(t, d.RunDir)
		}
	}, func(error) {})
	if !isRemoved(err, d.RunDir) {
		t.Errorf("it ended with %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	looks := 0
	testutil.Must(t, d.Watch(ctx, func() {}, func(error) {
		if looks++; looks == 3 {
			cancel()
		}
	}))
	if looks < 3 {
		t.Errorf("it ended after %d looks", looks)
	}
}

// A folder that can't be watched is reported until it can.
func TestUnwatchableFolderIsTold(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	testutil.Must(t, os.WriteFile(file, nil, 0o600))
	s := Store{ConfDir: filepath.Join(file, "net.d"), RunDir: dir}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var reported []error
	testutil.Must(t, s.Watch(ctx, func() {}, func(err error) {
		switch reported = append(reported, err); {
		case len(reported) == 1:
			testutil.Must(t, os.Remove(file))
			testutil.Must(t, os.MkdirAll(s.ConfDir, 0o755))
		case err == nil:
			cancel()
		}
	}))
	if reported[0] == nil || !strings.Contains(reported[0].Error(), "watching "+s.ConfDir+": ") || reported[len(reported)-1] != nil {
		t.Errorf("reported %v", reported)
	}
}
