package doctor

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/plainroute/plainroute/pkg/problem"
)

func TestConntrackProblems(t *testing.T) {
	for _, c := range []struct {
		count, most, early int
		want               problem.Severity
	}{
		{0, 262144, 0, problem.None},
		{899, 1000, 0, problem.None},
		{900, 1000, 0, problem.Error},
		{1000, 1000, 5, problem.Error},
		{749, 1000, 5, problem.None},
		{750, 1000, 5, problem.Warning},
		{750, 1000, 0, problem.None},
		{1 << 20, 0, 5, problem.None},
	} {
		found := conntrackProblems(c.count, c.most, c.early)
		if c.want == problem.None {
			well(t, found)
			continue
		}
		finds(t, found, c.want, "nf_conntrack_count is "+strconv.Itoa(c.count), "`sysctl -w net/netfilter/nf_conntrack_max=2000`")
	}
}

func TestConntrackStatistics(t *testing.T) {
	const text = "entries  clashres found drop early_drop icmp_error\n0000000a 00000000 00000000 00000001 00000010 00000000\n0000000a 00000000 00000000 00000000 0000000f 00000000\n"
	if got := sumOf(strings.NewReader(text), "early_drop"); got != 31 {
		t.Errorf("early_drop is %d, want 31", got)
	}
	for _, odd := range []string{"", "entries\n", "early_drop\nnothing\n\n"} {
		if got := sumOf(strings.NewReader(odd), "early_drop"); got != 0 {
			t.Errorf("of %q early_drop is %d", odd, got)
		}
	}
}

// The kernel's own files are read as they are. A reached limit is simulated by a file, because the
// real one is that of the whole machine.
func TestConntrack(t *testing.T) {
	w := newTestbed(t)
	w.finds("conntrack", problem.None)
	w.ProcSys = t.TempDir()
	w.finds("conntrack", problem.None) // the module is not loaded
	w.write(filepath.Join(w.ProcSys, conntrackCount), "65000\n")
	w.finds("conntrack", problem.Unknown)
	w.write(filepath.Join(w.ProcSys, conntrackMax), "65536\n")
	w.finds("conntrack", problem.Error)
	statistics, err := os.ReadFile("/proc/thread-self/net/stat/nf_conntrack")
	if err == nil && !strings.Contains(string(statistics), "early_drop") {
		t.Errorf("this kernel's statistics have other names: %s", statistics)
	}
}
