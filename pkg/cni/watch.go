package cni

import (
	"context"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
)

// unwatched is how often a folder that could not be watched is tried again: it is
// not there, or the machine has too many watches (inotify(7), max_user_watches).
const unwatched = time.Second

// Watch calls notify when somebody touches our config or one that goes before it, or
// the folders that ours lives in come or go, until ctx ends. What of our own doing it tells, too, costs
// a pass that finds nothing.
func (s Store) Watch(ctx context.Context, notify func()) {
	for ctx.Err() == nil {
		if w, err := fsnotify.NewWatcher(); err == nil {
			s.follow(ctx, w, notify)
			_ = w.Close()
		}
		select {
		case <-time.After(unwatched):
		case <-ctx.Done():
		}
	}
}

// follow reads events for as long as both folders can be watched.
func (s Store) follow(ctx context.Context, w *fsnotify.Watcher, notify func()) {
	if w.Add(s.RunDir) != nil {
		notify() // a pass makes it anew
		return
	}
	if w.Add(s.ConfDir) != nil {
		return
	}
	notify() // for what happened before the watch
	for {
		select {
		case e := <-w.Events:
			switch name := filepath.Clean(e.Name); {
			case name == s.link(), name == s.target(), before(filepath.Base(name)):
				notify()
			case name == filepath.Clean(s.ConfDir), name == filepath.Clean(s.RunDir):
				if e.Has(fsnotify.Remove) || e.Has(fsnotify.Rename) {
					notify()
					return
				}
			}
		case err := <-w.Errors: // events were lost, whatever it says
			if err != nil {
				notify()
			}
		case <-ctx.Done():
			return
		}
	}
}
