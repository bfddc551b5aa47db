package plugins

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Folder is the container runtime's folder of plugins, which is only read. It remembers the results
// for files that have not changed since.
type Folder struct {
	Path string

	mu    sync.Mutex
	unfit cache[string] // why a file can't be executed, "" if it can
	cni11 cache[bool]   // whether a file accepts CNI 1.1.0
}

// A cache has results by the names of the files, with the files that were examined.
type cache[T any] map[string]struct {
	of     fileID
	result T
}

func (c *cache[T]) get(name string, info fs.FileInfo, examine func() T) T {
	at, _ := info.Sys().(*syscall.Stat_t)
	id := fileID{at.Dev, at.Ino, at.Size, at.Ctim}
	known, ok := (*c)[name]
	if !ok || known.of != id {
		known.of, known.result = id, examine()
		if *c == nil {
			*c = cache[T]{}
		}
		(*c)[name] = known
	}
	return known.result
}

// fileID changes whenever a file or its mode does.
type fileID struct {
	device, inode uint64
	size          int64
	changed       syscall.Timespec
}

// Unfit returns, by name, why the container runtime can't execute plugins. Plugins that it can
// execute are left out, and so are those that can't be examined: a symlink that leads out of the
// folder means another file on the host, and the runtime may read what this process may not.
// Nothing is executed, because a plugin may need libraries that the host has and this container
// lacks.
func (f *Folder) Unfit(names []string) map[string]string {
	f.mu.Lock()
	defer f.mu.Unlock()
	unfit := map[string]string{}
	fail := func(why string) map[string]string {
		for _, name := range names {
			unfit[name] = why
		}
		return unfit
	}
	root, err := os.OpenRoot(f.Path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return fail(fmt.Sprintf("the folder of CNI plugins, %s, is not there", f.Path))
	case errors.Is(err, fs.ErrPermission):
		return unfit
	case err != nil:
		return fail(fmt.Sprintf("the folder of CNI plugins can't be read: %v", err))
	}
	defer root.Close()
	if err := executable(root); err != nil {
		return fail(err.Error())
	}
	for _, name := range names {
		if why := f.examine(root, name); why != "" {
			unfit[name] = why
		}
	}
	return unfit
}

func (f *Folder) examine(root *os.Root, name string) string {
	path := filepath.Join(f.Path, name)
	info, err := root.Stat(name)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return fmt.Sprintf("the CNI plugin %s is not in %s", name, f.Path)
	case err != nil:
		return "" // it leads out of the folder, or access is denied
	case !info.Mode().IsRegular():
		return fmt.Sprintf("%s is not a file (%s)", path, info.Mode())
	case info.Mode()&0o111 == 0:
		return fmt.Sprintf("%s is not executable (%s); chmod 755 it", path, info.Mode())
	}
	return f.unfit.get(name, info, func() string {
		if err := runnable(root, name); err != nil && !errors.Is(err, fs.ErrPermission) {
			return fmt.Sprintf("%s can't be executed: %v", path, err)
		}
		return ""
	})
}

// runnable returns why this machine's kernel does not execute a file, whatever its mode.
func runnable(root *os.Root, name string) error {
	file, err := root.Open(name)
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	own := elf.EM_NONE
	if self, err := elf.Open("/proc/self/exe"); err == nil {
		defer self.Close()
		own = self.Machine
	}
	return checkProgram(file, info.Size(), own)
}

// The reasons for which a kernel does not execute a file.
var (
	errNoProgram = errors.New("it is not a program")
	errTruncated = errors.New("it is not a whole program")
	errForeign   = errors.New("it is for")
)

// checkProgram returns why the kernel of a machine does not execute a file: it executes scripts, and
// whole ELF programs for its processor. A truncated copy lacks its last segments, or the table of
// sections behind them. A program for any machine passes if own is elf.EM_NONE.
func checkProgram(file io.ReaderAt, size int64, own elf.Machine) error {
	head := make([]byte, len(elf.ELFMAG))
	if n, _ := file.ReadAt(head, 0); n < len(head) {
		return fmt.Errorf("%w: it has only %d bytes", errNoProgram, n)
	}
	switch {
	case bytes.HasPrefix(head, []byte("#!")):
		return nil
	case string(head) != elf.ELFMAG:
		return errNoProgram
	}
	program, err := elf.NewFile(file)
	if err != nil {
		return fmt.Errorf("%w: %w", errTruncated, err)
	}
	for _, p := range program.Progs {
		if p.Type == elf.PT_LOAD && (p.Off > uint64(size) || p.Filesz > uint64(size)-p.Off) {
			return fmt.Errorf("%w: its end is missing", errTruncated)
		}
	}
	if own != elf.EM_NONE && !runs(own, program.Machine) {
		return fmt.Errorf("%w %s, and this machine is %s", errForeign, program.Machine, own)
	}
	return nil
}

// runs reports whether a machine executes programs for another one, such as those of 32 bits.
func runs(machine, program elf.Machine) bool {
	return machine == program ||
		machine == elf.EM_X86_64 && program == elf.EM_386 ||
		machine == elf.EM_AARCH64 && program == elf.EM_ARM
}

// executable returns an error if nothing can be executed from a folder.
func executable(root *os.Root) error {
	self, err := root.Open(".")
	if err != nil {
		return err
	}
	defer self.Close()
	var at unix.Statfs_t
	if err := unix.Fstatfs(int(self.Fd()), &at); err != nil {
		return &os.PathError{Op: "statfs", Path: root.Name(), Err: err}
	}
	if at.Flags&unix.ST_NOEXEC != 0 {
		return fmt.Errorf("%s is on a file system that is mounted with noexec, so no plugin could run from there: "+
			"remount it with exec, or use another folder, and set it in the container runtime's config (bin_dir)", root.Name())
	}
	return nil
}
