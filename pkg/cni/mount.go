package cni

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// A RemovedError is returned for a folder that is mounted here, as in a container, and was removed
// where it came from. No file can be created in such a mount, even after the folder was created
// again: it takes a new mount.
type RemovedError struct{ Folder string }

func (e *RemovedError) Error() string {
	return fmt.Sprintf("folder %s was removed on the host, so the mount in this container is dead; restart the container to mount it again", e.Folder)
}

// Mounted returns a RemovedError if one of the folders is removed.
func (s Store) Mounted() error {
	for _, folder := range s.folders() {
		if removed(folder) {
			return &RemovedError{folder}
		}
	}
	return nil
}

// removed reports whether a folder can be opened and has no name, which needs a mount. The kernel
// marks its path (d_path of fs/d_path.c). The link count does not suffice: with overlayfs it may be
// 1 (ovl_getattr).
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
