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

// look is how often a folder is looked for that could not be watched: it is not
// there, or the machine has too many watches (inotify(7), max_user_watches). A
// mount that died is found by it too, for of that inotify says nothing.
const look = time.Second

// Watch calls notify when somebody touches our config, one that goes before it, a drop-in file or
// a plugin, or the folders that they live in come or go, until ctx ends. What of our own doing it
// tells, too, costs a pass that finds nothing. It calls blind with what keeps it from
// watching, and with nil when that is over.
//
// A folder that was removed under its mount ends it with a RemovedError: a new
// container will see the new folder. If that was so from the start, it does not end:
// we are that new container, and a newer one would see no more.
func (s Store) Watch(ctx context.Context, notify func(), blind func(error)) error {
	w := &folderWatch{Store: s, notify: notify, dead: s.Mounted() != nil, seen: map[string]bool{}}
	defer w.close()
	again := time.NewTicker(look)
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

// A folderWatch is a Watch that runs.
type folderWatch struct {
	Store
	notify  func()
	dead    bool // since before we looked
	watcher *fsnotify.Watcher
	seen    map[string]bool // the folders that are watched
}

func (w *folderWatch) close() {
	if w.watcher != nil {
		_ = w.watcher.Close()
	}
}

// add watches what is not watched. A CNI folder that is not there is no error, for a
// router has none; who needs it says so.
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
			w.notify() // for what happened before
		case errors.Is(err, fs.ErrNotExist):
			if folder == filepath.Clean(w.RunDir) {
				w.notify() // a pass makes it anew
			}
		default:
			errs = append(errs, fmt.Errorf("watching %s: %w", folder, err))
		}
	}
	return errors.Join(errs...)
}

func (s Store) folders() []string {
	folders := []string{filepath.Clean(s.RunDir), filepath.Clean(s.ConfDir)}
	if s.PluginsDir != "" {
		folders = append(folders, filepath.Clean(s.PluginsDir))
	}
	if s.BinDir != "" {
		folders = append(folders, filepath.Clean(s.BinDir))
	}
	return folders
}

// isDropIn reports whether a path is in the folder of drop-in plugins. Of a mounted ConfigMap only a
// link there changes.
func (s Store) isDropIn(path string) bool {
	return s.PluginsDir != "" && filepath.Dir(path) == filepath.Clean(s.PluginsDir)
}

// before reports whether a path may be that of a config before ours.
func (s Store) before(path string) bool {
	name := filepath.Base(path)
	return filepath.Dir(path) == filepath.Clean(s.ConfDir) && loadable(name) && name < topology.Conflist
}

// follow reads events until it is time to look again. It returns false if ctx ended.
func (w *folderWatch) follow(ctx context.Context, again <-chan time.Time) bool {
	var events chan fsnotify.Event
	var lost chan error
	if w.watcher != nil {
		events, lost = w.watcher.Events, w.watcher.Errors
	}
	for {
		select {
		case e := <-events:
			w.learn(e)
		case err := <-lost: // events were, whatever it says
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

func (w *folderWatch) learn(e fsnotify.Event) {
	name := filepath.Clean(e.Name)
	switch {
	case slices.Contains(w.paths(), name), w.before(name), w.isDropIn(name), w.isPlugin(name):
		w.notify()
	case w.seen[name] && (e.Has(fsnotify.Remove) || e.Has(fsnotify.Rename)):
		delete(w.seen, name)
		_ = w.watcher.Remove(name) // or a folder moved away would be watched still
		w.notify()
	}
}

// isPlugin reports whether a path is that of a plugin. Temporary files of install-cni are
// left out: it renames them.
func (w *folderWatch) isPlugin(path string) bool {
	return w.BinDir != "" && filepath.Dir(path) == filepath.Clean(w.BinDir) && !strings.HasSuffix(path, tempSuffix)
}
