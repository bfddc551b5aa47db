package cni

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/plainroute/plainroute/test/testutil"
)

// Any change in the folders of drop-in files and of plugins is reported, except of files that
// install-cni is still writing.
func TestNewsOfPlugins(t *testing.T) {
	s := newChain(t)
	dir := filepath.Dir(s.RunDir)
	for name, c := range map[string]struct {
		name string
		news bool
	}{
		"a drop-in file":                {"plugins.d/10-tuning.json", true},
		"a link of a ConfigMap":         {"plugins.d/..data", true},
		"deeper than drop-in files":     {"plugins.d/more/10-tuning.json", false},
		"a plugin":                      {"bin/bridge", true},
		"a plugin that is being copied": {"bin/bridge" + tempSuffix, false},
		"deeper than plugins":           {"bin/more/bridge", false},
		"beside the folders":            {"bridge", false},
		"after ours by name":            {"net.d/99-other.conf", false},
		"what no runtime loads":         {"net.d/05-other.txt", false},
		"a config where none is loaded": {"run/05-other.conf", false},
	} {
		for _, op := range []fsnotify.Op{fsnotify.Create, fsnotify.Write, fsnotify.Remove, fsnotify.Chmod} {
			news := 0
			w := &folderWatch{Store: s, notify: func() { news++ }, seen: map[string]bool{}}
			w.handle(fsnotify.Event{Name: filepath.Join(dir, c.name), Op: op})
			if (news == 1) != c.news || news > 1 {
				t.Errorf("%s, %s: %d news", name, op, news)
			}
		}
	}
}

// An empty PluginsDir or BinDir is not the working directory of the process.
func TestNoNewsOfFoldersNotSet(t *testing.T) {
	w := &folderWatch{Store: newStore(t), notify: func() { t.Error("a file of no folder is news") }, seen: map[string]bool{}}
	w.handle(fsnotify.Event{Name: "bridge", Op: fsnotify.Create})
	if got := w.folders(); len(got) != 2 {
		t.Errorf("folders are %q", got)
	}
}

// A file that is created in the CNI folder, PluginsDir or BinDir is reported through inotify.
func TestWatchSeesEachFolder(t *testing.T) {
	s := newChain(t)
	for _, folder := range []string{s.ConfDir, s.PluginsDir, s.BinDir} {
		news := 0
		w := &folderWatch{Store: s, notify: func() { news++ }, seen: map[string]bool{}}
		testutil.Must(t, w.add())
		if news != 4 {
			t.Errorf("%d news of four folders that are there", news)
		}
		news = 0
		testutil.Must(t, os.WriteFile(filepath.Join(folder, "05-a.json"), nil, 0o644))
		for until := time.After(time.Minute); news == 0; {
			select {
			case e := <-w.watcher.Events:
				w.handle(e)
			case <-until:
				t.Fatalf("no news of a file in %s", folder)
			}
		}
		w.close()
	}
}

// before reports a config before ours by name, and not our own.
func TestOurConfigIsNotBeforeOurs(t *testing.T) {
	s := newStore(t)
	if s.before(s.link()) || !s.before(s.gate()) {
		t.Errorf("before ours: %s %t, %s %t", s.link(), s.before(s.link()), s.gate(), s.before(s.gate()))
	}
}
