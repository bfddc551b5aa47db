package plugins

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"go/version"

	"golang.org/x/mod/semver"
)

// Action is what became of one plugin.
type Action string

// The actions.
const (
	Installed Action = "installed" // it was missing
	Upgraded  Action = "upgraded"  // it was a stock plugin, older than ours
	Repaired  Action = "repaired"  // nothing could run by its name
	Replaced  Action = "replaced"  // it was something else, and Force is set
	Kept      Action = "kept"
	Failed    Action = "failed"
)

// Result is what became of a plugin, and why.
type Result struct {
	Plugin  string `json:"plugin"`
	Action  Action `json:"action"`
	Found   string `json:"found,omitempty"`   // version of what was there, where it is known
	Offered string `json:"offered,omitempty"` // version of ours, where it is known
	Reason  string `json:"reason,omitempty"`
	// Doubtful means that the plugin that was kept may not be what a pod network needs.
	Doubtful bool `json:"doubtful,omitempty"`
}

// String is the result as one line.
func (r Result) String() string {
	line := r.Plugin + ": " + string(r.Action)
	switch {
	case r.Action == Upgraded:
		line += " " + r.Found + " -> " + r.Offered
	case r.Action != Kept && r.Action != Failed && r.Offered != "":
		line += " " + r.Offered
	}
	if r.Reason != "" {
		line += ": " + r.Reason
	}
	return line
}

// found is what stands in the target folder by a plugin's name.
type found struct {
	kind       kind
	link       string // where a symlink leads to
	content    []byte // of a file
	executable bool   // by any user; root may then too
}

type kind int

const (
	nothing kind = iota
	file
	deadLink // a symlink to what is not there, inside of the folder
	link     // any other symlink
	other    // a folder, a device...
)

// decide compares what is there with ours. The action is Kept, or what installing ours will have
// been.
func decide(name string, ours []byte, have found, force bool) Result {
	offer := identify(name, ours)
	r := Result{Plugin: name, Offered: offer.version, Action: Kept}
	broken := have.broken(ours)
	switch {
	case have.kind == nothing:
		r.Action = Installed
	case have.kind == deadLink:
		r.Action, r.Reason = Repaired, "it was a symlink to "+have.link+", which is missing"
	case broken != "":
		r.Action, r.Reason = Repaired, broken
	case have.kind == file && bytes.Equal(have.content, ours):
		r.Found, r.Reason = offer.version, "it is the same"
		if !have.executable {
			r.Action, r.Reason = Repaired, "it was not executable"
		}
	case force:
		r.Action, r.Reason = Replaced, "forced"
	case have.kind == link:
		r.Reason = "a symlink to " + have.link
	case have.kind == other:
		r.Reason, r.Doubtful = "not a file", true
	default:
		r.choose(offer, identify(name, have.content), have.executable)
	}
	return r
}

// broken returns why a machine that executes ours does not execute a file; "" if it does, or if this
// is not a file.
func (f found) broken(ours []byte) string {
	if f.kind != file {
		return ""
	}
	machine := elf.EM_NONE
	if program, err := elf.NewFile(bytes.NewReader(ours)); err == nil {
		machine = program.Machine
	}
	err := checkProgram(bytes.NewReader(f.content), int64(len(f.content)), machine)
	switch {
	case len(f.content) == 0:
		return "it was an empty file"
	case errors.Is(err, errTruncated):
		return "its end was missing"
	case errors.Is(err, errNoProgram):
		return "it was not a program"
	case errors.Is(err, errForeign):
		return "it was for another processor"
	}
	return ""
}

func (r *Result) choose(ours, theirs identity, executable bool) {
	r.Found = theirs.version
	order := semver.Compare(core(ours.version), core(theirs.version))
	switch {
	case !theirs.stock:
		r.Reason, r.Doubtful = "not a stock plugin", true
	case theirs.version == "":
		r.Reason, r.Doubtful = "a stock plugin without a version", true
	case ours.version == "":
		r.Reason = "the version of the one offered is not known"
	case order > 0:
		r.Action = Upgraded
	case order < 0 && !executable:
		r.Reason, r.Doubtful = "newer "+theirs.version+", but not executable", true
	case order < 0:
		r.Reason = "newer " + theirs.version
	case !executable:
		r.Action, r.Reason = Repaired, "it was not executable"
	case ours.sum != "" && ours.sum == theirs.sum && version.Compare(ours.toolchain, theirs.toolchain) > 0:
		// The same source, so the only difference is what a newer Go fixes.
		r.Action, r.Reason = Upgraded, fmt.Sprintf("built with %s, not %s", ours.toolchain, theirs.toolchain)
	default:
		r.Reason = "same version " + theirs.version
	}
}
