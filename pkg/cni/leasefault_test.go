package cni

import (
	"context"
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/test/testutil"
)

// lockIsFree reports whether host-local could take its lock without waiting.
func lockIsFree(t *testing.T, s Store) bool {
	t.Helper()
	lock, err := os.Open(filepath.Join(s.leaseDir(), "lock"))
	testutil.Must(t, err)
	defer lock.Close()
	err = unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err != nil && !errors.Is(err, unix.EWOULDBLOCK) {
		t.Fatal(err)
	}
	return err == nil
}

// manyLeases returns leases of consecutive addresses.
func manyLeases(n int) []Lease {
	leases := make([]Lease, n)
	for i := range leases {
		addr := [4]byte{10}
		binary.BigEndian.PutUint16(addr[2:], uint16(i+2))
		leases[i] = Lease{netip.AddrFrom4(addr), Holder{"a", "eth0"}}
	}
	return leases
}

// More leases than one lock is held for are all released and counted, and the lock is free
// afterwards: a lock that stays until the garbage collector closes its file would keep every pod of
// the node from starting.
func TestReleaseOfMany(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	leases := manyLeases(leasesPerLock + 3)
	s := newLeases(t, leases...)
	if n, err := s.Release(t.Context(), leases); n != len(leases) || err != nil {
		t.Errorf("released %d of %d: %v", n, len(leases), err)
	}
	if got := held(t, s); len(got) > 0 {
		t.Errorf("held are %v", got)
	}
	if !lockIsFree(t, s) {
		t.Error("the lock is held still")
	}
}

// host-local makes its lock with the first lease, and may not have got that far.
func TestReleaseWithoutALockFile(t *testing.T) {
	was := []Lease{{first4, Holder{"a", "eth0"}}}
	s := newLeases(t, was...)
	testutil.Must(t, os.Remove(filepath.Join(s.leaseDir(), "lock")))
	if n, err := s.Release(t.Context(), was); n != 1 || err != nil {
		t.Errorf("released %d: %v", n, err)
	}
	if !lockIsFree(t, s) {
		t.Error("the lock is held still")
	}
}

// Without the lock no lease is released, and the error names the lock file.
func TestReleaseWithoutTheLock(t *testing.T) {
	was := []Lease{{first4, Holder{"a", "eth0"}}}
	s := newLeases(t, was...)
	lock := filepath.Join(s.leaseDir(), "lock")
	testutil.Must(t, os.Remove(lock))
	testutil.Must(t, os.Mkdir(lock, 0o755))
	n, err := s.Release(t.Context(), was)
	if n != 0 || !errors.Is(err, unix.EISDIR) || !strings.Contains(err.Error(), "releasing leases: ") || !strings.Contains(err.Error(), lock) {
		t.Errorf("released %d: %v", n, err)
	}
	if got := held(t, s); !slices.Equal(got, was) {
		t.Errorf("held are %v", got)
	}
}

// A lease that can't be read is named in the error and not counted. The other leases of its chunk
// are released, and Release stops after that chunk.
func TestReleaseOfAnUnreadableLease(t *testing.T) {
	leases := manyLeases(leasesPerLock + 1)
	s := newLeases(t, leases...)
	folder := s.leaseFile(leases[0].Addr)
	testutil.Must(t, os.Remove(folder))
	testutil.Must(t, os.Mkdir(folder, 0o755))
	n, err := s.Release(t.Context(), leases)
	if n != leasesPerLock-1 || !errors.Is(err, unix.EISDIR) || !strings.Contains(err.Error(), folder) {
		t.Errorf("released %d, want %d: %v", n, leasesPerLock-1, err)
	}
	if _, err := os.Stat(folder); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(s.leaseFile(leases[leasesPerLock].Addr)); err != nil {
		t.Error(err)
	}
	if _, err := s.HeldLeases(); !errors.Is(err, unix.EISDIR) || !strings.Contains(err.Error(), "reading the leases: ") {
		t.Errorf("of a lease that is a folder HeldLeases returned %v", err)
	}
}

// A lease that can't be removed is named in the error and not counted.
func TestReleaseOfALeaseThatStays(t *testing.T) {
	was := []Lease{{first4, Holder{"a", "eth0"}}}
	s := newLeases(t, was...)
	for _, name := range []string{"lock", first4.String()} {
		testutil.Must(t, os.Chmod(filepath.Join(s.leaseDir(), name), 0o666))
	}
	for dir := s.leaseDir(); dir != filepath.Dir(filepath.Dir(s.RunDir)); dir = filepath.Dir(dir) {
		testutil.Must(t, os.Chmod(dir, 0o755))
	}
	testutil.Must(t, os.Chmod(s.leaseDir(), 0o555))
	defer func() { testutil.Must(t, os.Chmod(s.leaseDir(), 0o755)) }()
	unprivileged(t, func() {
		n, err := s.Release(t.Context(), was)
		if n != 0 || !errors.Is(err, os.ErrPermission) || !strings.Contains(err.Error(), s.leaseFile(first4)) {
			t.Errorf("released %d: %v", n, err)
		}
	})
	if got := held(t, s); !slices.Equal(got, was) {
		t.Errorf("held are %v", got)
	}
}

// HeldLeases leaves out file names that host-local would not write, and a lease that is released
// while the folder is read.
func TestHeldLeasesLeavesOut(t *testing.T) {
	was := []Lease{{first4, Holder{"a", "eth0"}}, {first6, Holder{"a", "eth0"}}}
	s := newLeases(t, was...)
	testutil.Must(t, os.WriteFile(filepath.Join(s.leaseDir(), "fd00:0::2"), []byte("b\r\neth0"), 0o600)) // not as host-local writes it
	testutil.Must(t, os.Symlink("/nowhere", s.leaseFile(netip.MustParseAddr("10.0.0.1"))))               // reading it finds nothing
	if got := held(t, s); !slices.Equal(got, was) {
		t.Errorf("held are %v, want %v", got, was)
	}
}

// A lease folder that can't be read is an error, and not the same as an empty one.
func TestUnreadableFolderOfLeases(t *testing.T) {
	s := Store{RunDir: t.TempDir()}
	testutil.Must(t, os.Mkdir(s.LeaseDir(), 0o755))
	testutil.Must(t, os.WriteFile(s.leaseDir(), nil, 0o600))
	if all, err := s.HeldLeases(); all != nil || !errors.Is(err, unix.ENOTDIR) || !strings.Contains(err.Error(), "reading the leases: ") {
		t.Errorf("%v, %v", all, err)
	}
	if got := s.Leases(); got != nil {
		t.Errorf("leases %v", got)
	}
}

// A canceled wait for the lock returns an error with the path and the cause, and does not keep the
// lock once it gets it.
func TestCanceledWaitForTheLock(t *testing.T) {
	s := newLeases(t)
	path := filepath.Join(s.leaseDir(), "lock")
	unlock, err := lockFile(t.Context(), path)
	testutil.Must(t, err)
	if lockIsFree(t, s) {
		t.Error("the lock is not held")
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("the node is shut down")
	cancel(cause)
	if again, err := lockFile(ctx, path); again != nil || !errors.Is(err, cause) || !strings.Contains(err.Error(), "locking "+path+": ") {
		t.Errorf("the canceled wait returned %v", err)
	}
	unlock()
	ctx, end := context.WithTimeout(t.Context(), time.Minute)
	defer end()
	for range 2 { // the canceled wait may get the lock before or after the first of them
		unlock, err := lockFile(ctx, path)
		testutil.Must(t, err)
		unlock()
	}
}

// flock returns the error of the system call.
func TestFlockOfAClosedFile(t *testing.T) {
	file, err := os.Create(filepath.Join(t.TempDir(), "lock"))
	testutil.Must(t, err)
	testutil.Must(t, flock(file))
	testutil.Must(t, file.Close())
	if err := flock(file); !errors.Is(err, unix.EBADF) {
		t.Errorf("got error %v", err)
	}
}
