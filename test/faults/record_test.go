package faults

import (
	"fmt"
	"runtime"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// logbook contains the measurements, by the faults' names.
type logbook struct {
	sections []section
	mu       sync.Mutex
	measured map[string]*measurement
}

func newLogbook(sections []section) *logbook {
	return &logbook{sections: sections, measured: map[string]*measurement{}}
}

func (b *logbook) note(f fault, m *measurement) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.measured[f.name] = m
}

// faults are those that want accepts.
func (b *logbook) faults(want func(fault) bool) []fault {
	var faults []fault
	for _, section := range b.sections {
		for _, f := range section.faults {
			if want(f) {
				faults = append(faults, f)
			}
		}
	}
	return faults
}

// String is a line for each fault that was measured.
func (b *logbook) String() string {
	var text strings.Builder
	fmt.Fprintf(&text, "%-10s %-8s %-12s %s\n", "repaired", "within", "lost", "fault")
	for _, f := range b.faults(b.isMeasured) {
		m := b.measured[f.name]
		lost := fmt.Sprintf("%d of %d", m.lost, m.mayLose)
		fmt.Fprintf(&text, "%-10s %-8s %-12s %s\n", short(m.repair), f.within, lost, f.name)
	}
	return text.String()
}

func (b *logbook) isMeasured(f fault) bool { return b.measured[f.name] != nil }

const header = `# Faults

Faults of a node, how plainroute repairs them, and their cost. The suite test/faults writes the table. It injects every
one of these faults, in network namespaces with real agents and a real API server, while pods of two nodes ping each
other 100 times a second each way, over IPv4 and IPv6. This one was measured on
%s with %d cores; ` + "`make faults-doc`" + ` measures again.

- *Repaired*: the time from the moment when the agent can do something about it until everything of the agent's is as
  it should be, in the kernel and on disk, read every millisecond; the longest of all repetitions. *Within* is the
  bound of this measurement, one fault at a time; where faults share the processors, as in ` + "`make test-faults`" + `, the
  suite fails above four times as much.
- *Lost*: packets of the flow that lost most, in all repetitions together. Where *of at most* is 0, none may be lost.
  Elsewhere the fault itself cuts the traffic, and the bound is the time from the cut to the end of the repair, and two
  packets more for each repetition.

After each fault the suite compares what is not plainroute's with what it was before: routes of the main table and of
others, chains and rules of other nftables tables, settings, files byte for byte, and, beside tunnels, other programs' VXLAN
devices with their addresses, neighbors and FDB entries. Left out are the routes that the
kernel makes by itself, ` + "`ip rule`" + `, which plainroute never touches, and the elements of others' nftables sets.

The suite also kills programs before each single change that they make to a file, to a setting or, by netlink, to the
kernel: an agent during a pass with all kinds of changes (33 changes on 2026-11-30), an agent during its first pass (52),
` + "`cleanup`" + ` (21) and ` + "`install-cni`" + ` (28). The next run must complete the work, what is not plainroute's must be as before, and
the traffic of pods must not be cut. ` + "`make test`" + ` tries one change in 13; this tries each, in five minutes:

    make test-faults FAULTS="-run TestKilledAtEachWrite -every 1"
`

// page is docs/faults.md.
func (b *logbook) page() (string, error) {
	var text strings.Builder
	fmt.Fprintf(&text, header, kernel(), runtime.NumCPU())
	for _, section := range b.sections {
		fmt.Fprintf(&text, "\n## %s\n\n| fault | what happens | repaired | within | lost | of at most |\n"+
			"| --- | --- | ---: | ---: | ---: | ---: |\n", section.title)
		for _, f := range section.faults {
			m := b.measured[f.name]
			if m == nil {
				return "", fmt.Errorf("writing the page: not measured: %s", f.name)
			}
			fmt.Fprintf(&text, "| %s%s | %s | %s | %s | %d | %d |\n",
				sentence(f.name), repetitions(f.times), f.answer, short(m.repair), f.within, m.lost, m.mayLose)
		}
	}
	return text.String(), nil
}

// sentence begins with a capital letter.
func sentence(name string) string { return strings.ToUpper(name[:1]) + name[1:] }

func repetitions(times int) string {
	if times > 1 {
		return fmt.Sprintf(", %d times", times)
	}
	return ""
}

// kernel is the kernel's name and version.
func kernel() string {
	var name unix.Utsname
	if unix.Uname(&name) != nil {
		return "an unknown kernel"
	}
	version, _, _ := strings.Cut(unix.ByteSliceToString(name.Release[:]), "-")
	return "Linux " + version
}
