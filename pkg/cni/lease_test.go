package cni

import (
	"net/netip"
	"os"
	"testing"
)

// Leases are read as host-local writes them; one without a device has no holder.
func TestHolderOfALease(t *testing.T) {
	s := Store{RunDir: t.TempDir()}
	if err := os.MkdirAll(s.leaseDir(), 0o755); err != nil {
		t.Fatal(err)
	}
	for content, want := range map[string]Holder{
		"0a1b\r\neth0": {"0a1b", "eth0"}, "0a1b\neth0\n": {"0a1b", "eth0"}, "0a1b": {}, "": {}, "\r\neth0": {},
	} {
		if err := os.WriteFile(s.leaseDir()+"/fd01::2", []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		got, ok := s.Holder(netip.MustParseAddr("fd01::2"))
		if ok != (want != Holder{}) || ok && got != want {
			t.Errorf("%q: got %v, %t", content, got, ok)
		}
	}
	if _, ok := s.Holder(netip.MustParseAddr("fd01::3")); ok {
		t.Error("an address without a lease has a holder")
	}
}
