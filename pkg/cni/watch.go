package cni

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/plainroute/plainroute/pkg/topology"
)

// retryInterval is the time between attempts to watch a folder that is missing, or for which the
// machine has too many watches (inotify(7), max_user_watches). Dead mounts are found at the same
// time, because inotify does not report them.
const retryInterval = time.Second

// Watch calls notify after changes of our config, one that goes before it, a drop-in file or a
// plugin, and when their folders appear or are removed, until ctx ends. It calls it after our own
// changes as well, which costs a pass without changes. It calls blind with the error that keeps it
// from watching, and with nil when that is over.
//
// If a folder is removed under its mount, Watch returns a RemovedError: a new container gets a new
// mount. If it was removed before, Watch goes on, because a new container would not help.
func (s Store) Watch(ctx context.Context, notify func(), blind func(error)) error {
	w := &folderWatch{Store: s, notify: notify, dead: s.Mounted() != nil, seen: map[string]bool{}}
	defer w.close()
	again := time.NewTicker(retryInterval)
	defer again.Stop()
	for {
		if err := s.Mounted(); err != nil && !w.dead {
			return err
		}
		blind(w.add())
		if !w.follow(ctx, again.C) {
			return nil
		}
	}
}

type folderWatch struct {
	Store
	notify  func()
	dead    bool // since before Watch began
	watcher *fsnotify.Watcher
	seen    map[string]bool // the folders that are watched
}

func (w *folderWatch) close() {
	if w.watcher != nil {
		_ = w.watcher.Close()
	}
}

// add watches the folders that are not watched yet. A missing CNI folder is not an error, because a
// router has none; Write returns one.
func (w *folderWatch) add() error {
	if w.watcher == nil {
		watcher, err := fsnotify.NewWatcher()
		if err != nil {
			return fmt.Errorf("watching folders: %w", err)
		}
		w.watcher = watcher
	}
	var errs []error
	for _, folder := range w.folders() {
		if w.seen[folder] {
			continue
		}
		switch err := w.watcher.Add(folder); {
		case err == nil:
			w.seen[folder] = true
			w.notify() // because of changes before
		case errors.Is(err, fs.ErrNotExist):
			if folder == filepath.Clean(w.RunDir) {
				w.notify() // a pass makes it again
			}
		default:
			errs = append(errs, fmt.Errorf("watching %s: %w", folder, err))
		}
	}
	return errors.Join(errs...)
}

func (s Store) folders() []string {
	folders := []string{filepath.Clean(s.RunDir), filepath.Clean(s.ConfDir)}
	for _, optional := range []string{s.PluginsDir, s.BinDir} {
		if optional != "" {
			folders = append(folders, filepath.Clean(optional))
		}
	}
	return folders
}

// isPlugin reports whether a path is in the folder of drop-in plugins, where the only event of a
// mounted ConfigMap is of a symlink, or that of a plugin. install-cni renames its temporary files.
func (s Store) isPlugin(path string) bool {
	in := func(folder string) bool { return folder != "" && filepath.Dir(path) == filepath.Clean(folder) }
	return in(s.PluginsDir) || in(s.BinDir) && !strings.HasSuffix(path, tempSuffix)
}

func (s Store) before(path string) bool {
	name := filepath.Base(path)
	return filepath.Dir(path) == filepath.Clean(s.ConfDir) && loadable(name) && name < topology.Conflist
}

// follow handles events until the next retry. It returns false if ctx ended.
func (w *folderWatch) follow(ctx context.Context, again <-chan time.Time) bool {
	var events chan fsnotify.Event
	var lost chan error
	if w.watcher != nil {
		events, lost = w.watcher.Events, w.watcher.Errors
	}
	for {
		select {
		case e := <-events:
			w.handle(e)
		case err := <-lost: // events were lost, whatever the error
			if err != nil {
				w.notify()
			}
		case <-again:
			return true
		case <-ctx.Done():
			return false
		}
	}
}

func (w *folderWatch) handle(e fsnotify.Event) {
	name := filepath.Clean(e.Name)
	switch {
	case slices.Contains(w.paths(), name), w.before(name), w.isPlugin(name):
		w.notify()
	case w.seen[name] && (e.Has(fsnotify.Remove) || e.Has(fsnotify.Rename)):
		delete(w.seen, name)
		_ = w.watcher.Remove(name) // otherwise a folder that was moved away would still be watched
		w.notify()
	}
}
