package cni

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// newLeases makes a store with leases, beside host-local's own files.
func newLeases(t *testing.T, leases ...Lease) Store {
	t.Helper()
	s := Store{RunDir: t.TempDir()}
	if err := os.MkdirAll(s.leaseDir(), 0o755); err != nil {
		t.Fatal(err)
	}
	files := map[string]string{"lock": "", "last_reserved_ip.0": "10.0.0.9", "last_reserved_ip.1": "fd00::9"}
	for _, l := range leases {
		files[l.Addr.String()] = l.Container + "\r\n" + l.Device
	}
	for name, content := range files {
		if err := os.WriteFile(s.leaseDir()+"/"+name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func held(t *testing.T, s Store) []Lease {
	t.Helper()
	all, err := s.HeldLeases()
	if err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(all, func(a, b Lease) int { return a.Addr.Compare(b.Addr) })
	return all
}

var (
	first4 = netip.MustParseAddr("10.0.0.2")
	next4  = netip.MustParseAddr("10.0.0.3")
	first6 = netip.MustParseAddr("fd00::2")
)

// Only leases that are unchanged are released, in both families and without a holder, and
// host-local's own files stay.
func TestReleaseTakesWhatWasSeen(t *testing.T) {
	was := []Lease{{first4, Holder{"a", "eth0"}}, {next4, Holder{}}, {first6, Holder{"a", "eth0"}}}
	s := newLeases(t, was...)
	if got := held(t, s); !slices.Equal(got, was) {
		t.Fatalf("held are %v, want %v", got, was)
	}
	seen := []Lease{was[0], was[1], {first6, Holder{"b", "eth0"}}, {netip.MustParseAddr("10.0.0.4"), Holder{"c", "eth0"}}}
	n, err := s.Release(t.Context(), seen)
	if err != nil || n != 2 {
		t.Errorf("released %d: %v", n, err)
	}
	if got := held(t, s); !slices.Equal(got, was[2:]) {
		t.Errorf("held are %v, want %v", got, was[2:])
	}
	for _, name := range []string{"lock", "last_reserved_ip.0", "last_reserved_ip.1"} {
		if _, err := os.Stat(s.leaseDir() + "/" + name); err != nil {
			t.Error(err)
		}
	}
}

// While host-local has its lock nothing is released, and a wait for it ends with its context.
func TestReleaseWaitsForHostLocal(t *testing.T) {
	was := []Lease{{first4, Holder{"a", "eth0"}}}
	s := newLeases(t, was...)
	lock, err := os.Open(s.leaseDir() + "/lock")
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if n, err := s.Release(ctx, was); n != 0 || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("released %d: %v", n, err)
	}
	if got := held(t, s); !slices.Equal(got, was) {
		t.Errorf("held are %v", got)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_UN); err != nil {
		t.Fatal(err)
	}
	if n, err := s.Release(t.Context(), was); n != 1 || err != nil {
		t.Errorf("released %d: %v", n, err)
	}
}

// A node without pods has no folder of leases.
func TestNoLeases(t *testing.T) {
	if all, err := (Store{RunDir: t.TempDir()}).HeldLeases(); len(all) > 0 || err != nil {
		t.Errorf("%v, %v", all, err)
	}
}
