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
	"time"

	"golang.org/x/sys/unix"
)

// Folder is the container runtime's folder of plugins, which is only read. It remembers the results
// for files that have not changed since.
type Folder struct {
	Path string

	mu    sync.Mutex
	unfit cache[string] // why a file can't be executed, "" if it can
}

// A cache has results by the names of the files, with the files that were examined.
type cache[T any] map[string]struct {
	of     fileID
	result T
}

func (c *cache[T]) get(name string, info fs.FileInfo, examine func() T) T {
	id := idOf(info)
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
	changed       time.Time
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

func idOf(info fs.FileInfo) fileID {
	id := fileID{size: info.Size(), changed: info.ModTime()}
	if at, ok := info.Sys().(*syscall.Stat_t); ok {
		id.device, id.inode, id.changed = at.Dev, at.Ino, time.Unix(at.Ctim.Unix())
	}
	return id
}

// runnable returns why this machine's kernel does not execute a file, whatever its mode: it
// executes scripts and whole ELF programs for this processor.
func runnable(root *os.Root, name string) error {
	file, err := root.Open(name)
	if err != nil {
		return err
	}
	defer file.Close()
	head := make([]byte, 4)
	if n, err := io.ReadFull(file, head); err != nil {
		return fmt.Errorf("it has only %d bytes", n)
	}
	switch {
	case !isProgram(head):
		return errors.New("it is not a program")
	case bytes.HasPrefix(head, shebang):
		return nil
	}
	return wholeProgram(file)
}

var shebang = []byte("#!")

func isProgram(content []byte) bool {
	return bytes.HasPrefix(content, shebang) || bytes.HasPrefix(content, []byte(elf.ELFMAG))
}

// wholeProgram returns what is wrong with an ELF file. A truncated copy lacks its last segments, or
// the table of sections behind them.
func wholeProgram(file *os.File) error {
	info, err := file.Stat()
	if err != nil {
		return err
	}
	program, err := elf.NewFile(file)
	if err != nil {
		return fmt.Errorf("it is not a whole program: %w", err)
	}
	for _, p := range program.Progs {
		if size := uint64(info.Size()); p.Type == elf.PT_LOAD && (p.Off > size || p.Filesz > size-p.Off) {
			return errors.New("it is not a whole program: its end is missing")
		}
	}
	own, err := elf.Open("/proc/self/exe")
	if err != nil {
		return nil // nothing to compare with
	}
	defer own.Close()
	if !runs(own.Machine, program.Machine) {
		return fmt.Errorf("it is for %s, and this machine is %s", program.Machine, own.Machine)
	}
	return nil
}

// foreign reports whether a program is for another processor than ours. A script isn't.
func foreign(ours, theirs []byte) bool {
	own, err := elf.NewFile(bytes.NewReader(ours))
	if err != nil {
		return false
	}
	program, err := elf.NewFile(bytes.NewReader(theirs))
	return err == nil && !runs(own.Machine, program.Machine)
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
