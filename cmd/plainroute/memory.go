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

// releaseStartupPages gives back the pages of this program that only its start needed: the
// initialization of libraries touches half of the program once. Later use reads pages from the page
// cache again, 16 at a fault (fault_around_bytes of mm/memory.c). Nothing depends on it.
func releaseStartupPages() error {
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
		if !strings.HasSuffix(lines.Text(), " "+program) || !sameAsFile(rights, file.Type) {
			continue
		}
		if _, _, errno := unix.Syscall(unix.SYS_MADVISE, from, to-from, unix.MADV_DONTNEED); errno != 0 {
			return fmt.Errorf("giving back memory: %w", errno)
		}
	}
	return lines.Err()
}

// sameAsFile reports whether memory has the content of the program's file, so that no change is lost.
// The loader of a position-independent program (-buildmode=pie) writes addresses into memory that is
// read-only afterwards (PT_GNU_RELRO of elf(5)), but not into code.
func sameAsFile(rights string, kind elf.Type) bool {
	return rights[1] != 'w' && (kind == elf.ET_EXEC || rights[2] == 'x')
}
