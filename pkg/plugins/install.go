// Package plugins copies CNI plugins into the folder from which a node's container runtime executes
// them, and in which other software installs plugins as well.
package plugins

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// Install is one installation.
type Install struct {
	From  string   // the folder of the plugins to install
	To    string   // the container runtime's folder; it is made if it is missing
	Names []string // of the plugins; none: all executable files in From
	Force bool     // replaces anything that differs, except a folder
}

// Run installs what is missing or older. If one plugin can't be installed, the others are all the
// same: there is a Result of each, and the error joins what went wrong. If it fails before the
// first plugin, there are no Results.
//
// Whenever it is killed, each name in the folder has its former content, or ours, whole. Concurrent
// runs on one folder take turns.
func (i Install) Run(ctx context.Context) ([]Result, error) {
	names, err := i.names()
	if err != nil {
		return nil, err
	}
	to, err := open(ctx, i.To)
	if err != nil {
		return nil, fmt.Errorf("opening the plugins' folder: %w", explain(err))
	}
	defer to.close()
	if err := to.sweep(); err != nil {
		return nil, fmt.Errorf("removing what an interrupted run left: %w", explain(err))
	}
	var results []Result
	var faults []error
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return results, errors.Join(append(faults, err)...)
		}
		r, err := i.one(to, name)
		if err != nil {
			err = explain(err)
			r = Result{Plugin: name, Action: Failed, Reason: err.Error()}
			faults = append(faults, fmt.Errorf("installing %s: %w", name, err))
		}
		results = append(results, r)
	}
	return results, errors.Join(faults...)
}

func (i Install) names() ([]string, error) {
	if len(i.Names) > 0 {
		return slices.Compact(slices.Sorted(slices.Values(i.Names))), nil
	}
	entries, err := os.ReadDir(i.From)
	if err != nil {
		return nil, fmt.Errorf("looking for plugins: %w", err)
	}
	var names []string
	for _, entry := range entries {
		at, err := os.Stat(filepath.Join(i.From, entry.Name()))
		if err != nil {
			return nil, fmt.Errorf("looking for plugins: %w", err)
		}
		if at.Mode().IsRegular() && at.Mode()&0o111 != 0 {
			names = append(names, entry.Name())
		}
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("looking for plugins: there are none in %s", i.From)
	}
	return names, nil
}

func (i Install) one(to *folder, name string) (Result, error) {
	ours, err := os.ReadFile(filepath.Join(i.From, name))
	if err != nil {
		return Result{}, err
	}
	have, err := to.look(name)
	if err != nil {
		return Result{}, err
	}
	r := decide(name, ours, have, i.Force)
	if r.Action == Kept {
		return r, nil
	}
	return r, to.put(name, ours)
}

// Missing returns the names that no file in the folder has. A symlink that leads out of the folder
// counts as a file, because its target can't be seen from inside a container.
func Missing(dir string, names []string) ([]string, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("opening the plugins' folder: %w", err)
	}
	defer root.Close()
	return slices.DeleteFunc(slices.Clone(names), func(name string) bool {
		_, err := root.Stat(name)
		return !errors.Is(err, os.ErrNotExist)
	}), nil
}

// Review returns what Run would do with the named plugins that are there. It changes nothing. A
// plugin that From lacks is Kept.
func (i Install) Review() ([]Result, error) {
	root, err := os.OpenRoot(i.To)
	if err != nil {
		return nil, fmt.Errorf("opening the plugins' folder: %w", err)
	}
	defer root.Close()
	to := &folder{root: root}
	var results []Result
	for _, name := range i.Names {
		have, err := to.look(name)
		if err != nil {
			return nil, fmt.Errorf("reading the plugin %s: %w", name, err)
		}
		if have.kind == nothing {
			continue
		}
		ours, err := os.ReadFile(filepath.Join(i.From, name))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("reading our own plugin: %w", err)
		}
		results = append(results, decide(name, ours, have, i.Force))
	}
	return results, nil
}

// remediations are those of errors that the host's set-up causes.
var remediations = []struct {
	errs []error
	text string
}{
	{
		[]error{unix.EROFS},
		"use the folder that your distribution has for plugins (the chart's cni.binDir), and set it in the container runtime's config (bin_dir)",
	},
	{[]error{unix.ENOSPC, unix.EDQUOT}, "make room: the plugins take 30 MB"},
	{
		[]error{unix.EACCES, unix.EPERM},
		"be root; where the folder is another user's, have CAP_DAC_OVERRIDE too (the chart's dacOverride); under SELinux, a type that may write there (seLinuxOptions)",
	},
}

func explain(err error) error {
	for _, a := range remediations {
		if slices.ContainsFunc(a.errs, func(cause error) bool { return errors.Is(err, cause) }) {
			return fmt.Errorf("%w (%s)", err, a.text)
		}
	}
	return err
}
