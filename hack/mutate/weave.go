package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// switches is compiled into the package. With MUTATE_HITS set, a test run notes in that file, a byte
// for each mutant, which mutants it came by; with MUTATE_ON, the mutant of that number is in the code.
// A mutant that takes all memory there is dies of it alone.
const switches = `package %s

import (
	mutOS__ "os"
	mutConv__ "strconv"
	mutAtomic__ "sync/atomic"
	mutCall__ "syscall"
)

var mutOn__, mutHits__ = mutStart__()

var mutSeen__ [%d]mutAtomic__.Bool

func mutStart__() (int, *mutOS__.File) {
	on, err := mutConv__.Atoi(mutOS__.Getenv("MUTATE_ON"))
	if err == nil {
		const most = 3 << 30
		_ = mutCall__.Setrlimit(mutCall__.RLIMIT_DATA, &mutCall__.Rlimit{Cur: most, Max: most})
	}
	hits, _ := mutOS__.OpenFile(mutOS__.Getenv("MUTATE_HITS"), mutOS__.O_WRONLY, 0)
	return on, hits
}

func mut__(id int) bool {
	if mutHits__ != nil && !mutSeen__[id].Swap(true) {
		_, _ = mutHits__.WriteAt([]byte{1}, int64(id))
	}
	return id == mutOn__
}

func mutPick__[T any](id int, mutated, original T) T {
	if mut__(id) {
		return mutated
	}
	return original
}

func mutZero__[T any](id int, original T) T {
	if mut__(id) {
		var zero T
		return zero
	}
	return original
}
`

// weave returns a file with all its mutants, each behind its switch, and where in that text each stands.
func weave(text []byte, mutants []*mutant) (string, map[*mutant][2]int) {
	// Outer ones come first at a start, and last at an end.
	outerFirst := slices.SortedStableFunc(slices.Values(mutants), func(a, b *mutant) int {
		return cmp.Or(cmp.Compare(a.start, b.start), cmp.Compare(b.end, a.end))
	})
	type piece struct {
		at    int
		text  string
		of    *mutant
		begin bool
	}
	var pieces []piece
	for _, m := range slices.Backward(outerFirst) {
		pieces = append(pieces, piece{m.end, numbered(m.suffix, m.id), m, false})
	}
	for _, m := range outerFirst {
		pieces = append(pieces, piece{m.start, numbered(m.prefix, m.id), m, true})
	}
	slices.SortStableFunc(pieces, func(a, b piece) int { return cmp.Compare(a.at, b.at) })
	var b strings.Builder
	where := map[*mutant][2]int{}
	done := 0
	for _, p := range pieces {
		b.Write(text[done:p.at])
		done = p.at
		if p.begin {
			where[p.of] = [2]int{b.Len(), 0}
		}
		b.WriteString(p.text)
		if !p.begin {
			where[p.of] = [2]int{where[p.of][0], b.Len()}
		}
	}
	b.Write(text[done:])
	return b.String(), where
}

func numbered(text string, id int) string { return strings.ReplaceAll(text, "ID__", strconv.Itoa(id)) }

// compilable returns those mutants that compile, and the woven files with them.
func (s *source) compilable(mutants []*mutant) ([]*mutant, map[string]string, error) {
	all := len(mutants)
	for {
		woven := &source{dir: s.dir, path: s.path, name: s.name, fset: token.NewFileSet(), importer: s.importer}
		texts := map[string]string{"zz_mutate.go": fmt.Sprintf(switches, s.name, all+1)}
		where := map[*mutant][2]int{}
		for _, f := range s.files {
			mine := slices.DeleteFunc(slices.Clone(mutants), func(m *mutant) bool { return m.file != f.name })
			text, places := weave(f.text, mine)
			texts[f.name] = text
			for m, place := range places {
				where[m] = place
			}
		}
		for _, name := range slices.Sorted(maps.Keys(texts)) {
			if err := woven.add(name, []byte(texts[name])); err != nil {
				return nil, nil, err
			}
		}
		errs := woven.check()
		if len(errs) == 0 {
			return mutants, texts, nil
		}
		bad := map[*mutant]bool{}
		for _, err := range errs {
			at := err.Fset.Position(err.Pos)
			guilty := ofLine(mutants, where, at, texts[at.Filename])
			if len(guilty) == 0 {
				guilty = innermost(mutants, where, at)
			}
			if len(guilty) == 0 {
				return nil, nil, fmt.Errorf("weaving mutants: %w", err)
			}
			for _, m := range guilty {
				bad[m] = true
			}
		}
		mutants = slices.DeleteFunc(slices.Clone(mutants), func(m *mutant) bool { return bad[m] })
	}
}

// innermost returns the mutant that stands most closely around a place in a woven file.
func innermost(mutants []*mutant, where map[*mutant][2]int, at token.Position) (found []*mutant) {
	least := 0
	for _, m := range mutants {
		from, to := where[m][0], where[m][1]
		if m.file == at.Filename && from <= at.Offset && at.Offset < to && (found == nil || to-from < least) {
			found, least = []*mutant{m}, to-from
		}
	}
	return found
}

// ofLine returns the mutants of arithmetic that begin on the line of a place in a woven file: a constant
// that has its type from where it stands is an int in a call.
func ofLine(mutants []*mutant, where map[*mutant][2]int, at token.Position, text string) (found []*mutant) {
	for _, m := range mutants {
		if m.operator == "arithmetic" && m.file == at.Filename && 1+strings.Count(text[:where[m][0]], "\n") == at.Line {
			found = append(found, m)
		}
	}
	return found
}

// overlay writes the woven files and the list of them that go build -overlay takes.
func (s *source) overlay(texts map[string]string, folder string) (string, error) {
	replace := map[string]string{}
	for name, text := range texts {
		to := filepath.Join(folder, name)
		if err := os.WriteFile(to, []byte(text), 0o600); err != nil {
			return "", err
		}
		replace[filepath.Join(s.dir, name)] = to
	}
	list, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	file := filepath.Join(folder, "overlay.json")
	return file, os.WriteFile(file, list, 0o600)
}
