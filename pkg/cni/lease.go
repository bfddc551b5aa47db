package cni

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/topology"
)

// Leases returns the addresses that host-local has given to pods of this host. If the folder can't
// be read, there are none, because routes must not wait for it.
func (s Store) Leases() []netip.Addr {
	addrs, _ := s.leased()
	return addrs
}

// leased returns the addresses for which host-local has a file, named by the address
// (plugins/ipam/host-local of containernetworking).
func (s Store) leased() ([]netip.Addr, error) {
	entries, err := os.ReadDir(s.leaseDir())
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the leases: %w", err)
	}
	var addrs []netip.Addr
	for _, e := range entries { // besides host-local's lock, and the last address that it gave
		if addr, err := netip.ParseAddr(e.Name()); err == nil && addr.String() == e.Name() {
			addrs = append(addrs, addr)
		}
	}
	return addrs, nil
}

func (s Store) leaseDir() string { return filepath.Join(s.RunDir, topology.IPAMDir, topology.Network) }

// A Holder is the container that an address is leased to, with the name of its device.
type Holder struct {
	Container, Device string
}

// Holder returns the holder of a lease. host-local writes the container's ID and the device in one
// line each, separated by "\r\n" (backend/disk of its sources). It returns false if one is missing.
func (s Store) Holder(addr netip.Addr) (Holder, bool) {
	b, err := os.ReadFile(s.leaseFile(addr))
	if err != nil {
		return Holder{}, false
	}
	h := parseHolder(b)
	return h, h.Container != "" && h.Device != ""
}

// A Lease is an address that host-local has given to a container. After a crash of host-local it
// may lack a holder.
type Lease struct {
	Addr netip.Addr
	Holder
}

// HeldLeases returns all leases with their holders, in no order. A lease that is released meanwhile
// is left out.
func (s Store) HeldLeases() ([]Lease, error) {
	addrs, err := s.leased()
	if err != nil {
		return nil, err
	}
	leases := make([]Lease, 0, len(addrs))
	for _, addr := range addrs {
		content, err := os.ReadFile(s.leaseFile(addr))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("reading the leases: %w", err)
		}
		leases = append(leases, Lease{addr, parseHolder(content)})
	}
	return leases, nil
}

func (s Store) leaseFile(addr netip.Addr) string { return filepath.Join(s.leaseDir(), addr.String()) }

func parseHolder(content []byte) Holder {
	container, device, _ := strings.Cut(string(content), "\n")
	return Holder{strings.TrimSpace(container), strings.TrimSpace(device)}
}

const leasesPerLock = 500 // bounds how long the plugins of pods that start or end wait for Release

// Release removes leases as host-local does, under its lock. A lease with another holder by now
// stays. It returns how many it removed.
func (s Store) Release(ctx context.Context, leases []Lease) (released int, err error) {
	for some := range slices.Chunk(leases, leasesPerLock) {
		n, err := s.release(ctx, some)
		released += n
		if err != nil {
			return released, fmt.Errorf("releasing leases: %w", err)
		}
	}
	return released, nil
}

func (s Store) release(ctx context.Context, leases []Lease) (released int, err error) {
	unlock, err := lockFile(ctx, filepath.Join(s.leaseDir(), "lock"))
	if err != nil {
		return 0, err
	}
	defer unlock()
	var errs []error
	for _, l := range leases {
		content, err := os.ReadFile(s.leaseFile(l.Addr))
		if errors.Is(err, os.ErrNotExist) || err == nil && parseHolder(content) != l.Holder {
			continue
		}
		if err == nil {
			err = os.Remove(s.leaseFile(l.Addr))
		}
		if err == nil {
			released++
		}
		errs = append(errs, err)
	}
	return released, errors.Join(errs...)
}

const lockInterval = 10 * time.Millisecond // between attempts at host-local's lock, which it holds as long

// lockFile waits for a lock of flock(2) until ctx ends. host-local creates the file with the first
// lease.
func lockFile(ctx context.Context, path string) (unlock func(), err error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	for err = flock(file); errors.Is(err, unix.EWOULDBLOCK) || errors.Is(err, unix.EINTR); err = flock(file) {
		select {
		case <-time.After(lockInterval):
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("locking %s: %w", path, context.Cause(ctx)), file.Close())
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("locking %s: %w", path, err), file.Close())
	}
	return func() { _ = file.Close() }, nil
}

// flock takes the lock of a file, or returns EWOULDBLOCK if another process has it.
func flock(file *os.File) error { return unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB) }
