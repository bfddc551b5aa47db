package cni

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// RemovedError says that somebody removed a folder that is mounted here from
// elsewhere, as into a container: the mount shows what has no name any more, and no
// file can be made in it, though the folder be made anew. It takes a new mount.
type RemovedError struct{ Folder string }

func (e *RemovedError) Error() string {
	return fmt.Sprintf("folder %s was removed on the host, and what is mounted here is dead; a restart of the container mounts it anew", e.Folder)
}

// Mounted returns a RemovedError if one of the folders is dead.
func (s Store) Mounted() error {
	for _, folder := range s.folders() {
		if removed(folder) {
			return &RemovedError{folder}
		}
	}
	return nil
}

// removed tells whether a folder can be reached and has no name. Without a mount
// that can't be. The link count won't do: of overlayfs it may be 1 (ovl_getattr).
// d_path of the kernel's fs/d_path.c marks it.
func removed(folder string) bool {
	const mark = " (deleted)"
	file, err := os.Open(folder)
	if err != nil {
		return false
	}
	defer file.Close()
	path, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(int(file.Fd())))
	return err == nil && strings.HasSuffix(path, mark) && !strings.HasSuffix(folder, mark)
}
