package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// process is a process by its ID.
type process int

// cpu is the CPU time that the process has used, user and system. Its clock counts nanoseconds, where /proc counts
// hundredths of a second: the ID of another process' clock is made of its PID (linux/posix-timers.h).
func (p process) cpu() (time.Duration, error) {
	const schedClock = 2
	var used unix.Timespec
	if err := unix.ClockGettime(int32(^int(p)<<3|schedClock), &used); err != nil {
		return 0, fmt.Errorf("reading the CPU time of process %d: %w", p, err)
	}
	return time.Duration(used.Nano()), nil
}

// peakMemory is the most resident memory that the process ever had, or has had since resetPeak, in MiB.
func (p process) peakMemory() (float64, error) {
	content, err := os.ReadFile(p.file("status"))
	if err != nil {
		return 0, fmt.Errorf("reading the memory of process %d: %w", p, err)
	}
	for line := range strings.Lines(string(content)) {
		if fields := strings.Fields(line); fields[0] == "VmHWM:" {
			kib, err := strconv.ParseFloat(fields[1], 64)
			return kib / 1024, err
		}
	}
	return 0, errors.New("reading the memory of a process: it has ended")
}

// resetPeak makes peakMemory begin anew (proc(5), clear_refs).
func (p process) resetPeak() error {
	return os.WriteFile(p.file("clear_refs"), []byte("5"), 0)
}

func (p process) file(name string) string { return filepath.Join("/proc", strconv.Itoa(int(p)), name) }
