package dataplane

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/topology"
	"github.com/plainroute/plainroute/test/seccomp"
)

// A kernel lacks IPv6 if it has neither the family nor its settings. A sandbox may refuse the
// socket for another reason, and hide the settings.
func TestKernelThatLacksIPv6(t *testing.T) {
	if refusesIPv6() {
		t.Skip("this kernel lacks IPv6")
	}
	for name, c := range map[string]struct {
		refusal  unix.Errno
		settings bool
		want     bool
	}{
		"neither":                       {unix.EAFNOSUPPORT, false, true},
		"settings alone":                {unix.EAFNOSUPPORT, true, false},
		"the family alone":              {0, false, false},
		"both":                          {0, true, false},
		"no socket for another reason":  {unix.EACCES, false, false},
		"no socket for want of numbers": {unix.EMFILE, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			k := &Kernel{cfg: Config{ProcSys: t.TempDir()}}
			if file := k.sysctlFile(topology.ConfSysctl(6, "all", "disable_ipv6")); c.settings {
				if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(file, nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if c.refusal != 0 {
				seccomp.RefuseSockets(t, c.refusal, unix.AF_INET6)
			}
			if got := k.lacksIPv6(); got != c.want {
				t.Errorf("got %t", got)
			}
		})
	}
}

// A look at the families leaves no socket open.
func TestLookAtIPv6LeavesNothingOpen(t *testing.T) {
	count := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	before := count()
	for range 100 {
		refusesIPv6()
	}
	if after := count(); after >= before+100 {
		t.Errorf("%d descriptors became %d", before, after)
	}
}
