//go:build linux

package main

import (
	"bufio"
	"debug/elf"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// forgetStartUp gives back the pages of this program that only starting took: the
// initialisation of the libraries touches half of it once. What is needed again comes
// back from the page cache, a fault for 16 pages (fault_around_bytes of mm/memory.c).
// Nothing depends on it.
func forgetStartUp() error {
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return err
	}
	file, err := elf.Open("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("reading our own program: %w", err)
	}
	defer file.Close()
	maps, err := os.Open("/proc/self/maps")
	if err != nil {
		return err
	}
	defer maps.Close()
	lines := bufio.NewScanner(maps)
	for lines.Scan() {
		var from, to uintptr
		var rights string
		if _, err := fmt.Sscanf(lines.Text(), "%x-%x %s", &from, &to, &rights); err != nil {
			return fmt.Errorf("reading /proc/self/maps: %w", err)
		}
		if !strings.HasSuffix(lines.Text(), " "+program) || !asInFile(rights, file.Type) {
			continue
		}
		if _, _, errno := unix.Syscall(unix.SYS_MADVISE, from, to-from, unix.MADV_DONTNEED); errno != 0 {
			return fmt.Errorf("giving back memory: %w", errno)
		}
	}
	return lines.Err()
}

// asInFile tells what is in memory as it is in the program's file; what was written since
// would be lost. A program that can be anywhere (-buildmode=pie) has had its addresses
// written into what may only be read afterwards (PT_GNU_RELRO of elf(5)), but for its code.
func asInFile(rights string, kind elf.Type) bool {
	switch {
	case rights[1] == 'w':
		return false
	case kind == elf.ET_EXEC:
		return true
	}
	return rights[2] == 'x'
}
