package doctor

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/plainroute/plainroute/pkg/problem"
)

const (
	conntrackCount = "net/netfilter/nf_conntrack_count"
	conntrackMax   = "net/netfilter/nf_conntrack_max"
)

// conntrack looks whether the table of tracked connections is full: then each packet of a new
// connection is dropped, whoever sends it, and nothing but the kernel's log says so.
func conntrack(_ context.Context, p *Patient) []problem.Problem {
	count, err := p.threshold(conntrackCount)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // nothing is tracked
	}
	most, maxErr := p.threshold(conntrackMax)
	if err := errors.Join(err, maxErr); err != nil {
		return Skip("reading how many connections are tracked: "+err.Error(), "")
	}
	statistics, err := os.Open("/proc/thread-self/net/stat/nf_conntrack")
	early := 0
	if err == nil { // a kernel without CONFIG_NF_CONNTRACK_PROCFS has none
		early = sumOf(statistics, "early_drop")
		_ = statistics.Close()
	}
	return conntrackFindings(count, most, early)
}

// conntrackFindings judges count connections of most (0: no limit), and how many were thrown out since
// the last boot because there was no room, which the kernel does with those that saw no answer.
func conntrackFindings(count, most, early int) []problem.Problem {
	shown := fmt.Sprintf("%s is %d, %s is %d", conntrackCount, count, conntrackMax, most)
	if early > 0 {
		shown += fmt.Sprintf("; early_drop of /proc/net/stat/nf_conntrack is %d", early)
	}
	cure := fmt.Sprintf("find what opens so many (conntrack -L), and have kube-proxy allow more (conntrack.maxPerCore, conntrack.min of its config), which else sets it back when it starts; until then: `sysctl -w %s=%d`", conntrackMax, 2*most)
	switch {
	case most > 0 && count >= most-most/10:
		return []problem.Problem{Fail("the table of tracked connections is full or about to be; then the kernel drops what begins a connection, of pods and nodes, and logs \"nf_conntrack: table full, dropping packet\"", shown, cure)}
	case most > 0 && early > 0 && count >= most-most/4:
		return []problem.Problem{Warn("the table of tracked connections was full since the last boot, and has little room", shown, cure)}
	}
	return nil
}

// sumOf adds up a column over all CPUs: a line each below a line of names, in hexadecimal
// (ct_cpu_seq_show of net/netfilter/nf_conntrack_standalone.c).
func sumOf(statistics io.Reader, name string) int {
	lines := bufio.NewScanner(statistics)
	if !lines.Scan() {
		return 0
	}
	column, sum := slices.Index(strings.Fields(lines.Text()), name), 0
	for lines.Scan() {
		if fields := strings.Fields(lines.Text()); column >= 0 && column < len(fields) {
			n, _ := strconv.ParseUint(fields[column], 16, 32) // what is no number counts for nothing
			sum += int(n)
		}
	}
	return sum
}
