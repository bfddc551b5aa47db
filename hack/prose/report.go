package main

import (
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"text/tabwriter"
)

// A count is of sentences, and of those of them that break a rule.
type count struct{ sentences, hits int }

func (c count) share() float64 {
	if c.sentences == 0 {
		return 0
	}
	return 100 * float64(c.hits) / float64(c.sentences)
}

// A summary has a count for each kind and each of its packages.
type summary struct {
	kinds    []kind
	all      map[kind]*count
	packages map[kind][]string
	counts   map[kind]map[string]*count
}

func summarize(found []sentence) *summary {
	s := &summary{all: map[kind]*count{}, packages: map[kind][]string{}, counts: map[kind]map[string]*count{}}
	for _, one := range found {
		if s.all[one.kind] == nil {
			s.kinds = append(s.kinds, one.kind)
			s.all[one.kind], s.counts[one.kind] = &count{}, map[string]*count{}
		}
		where := one.place()
		if s.counts[one.kind][where] == nil {
			s.packages[one.kind] = append(s.packages[one.kind], where)
			s.counts[one.kind][where] = &count{}
		}
		for _, c := range []*count{s.all[one.kind], s.counts[one.kind][where]} {
			c.sentences++
			if len(broken(one.text)) > 0 {
				c.hits++
			}
		}
	}
	return s
}

// place is the package of a sentence in Go, and the file of one in Markdown.
func (s sentence) place() string {
	if s.kind == page {
		return s.file
	}
	return filepath.Dir(s.file)
}

// print writes the table.
func (s *summary) print(out io.Writer, totals bool) {
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	for _, k := range s.kinds {
		if totals {
			row(w, string(k), s.all[k])
			continue
		}
		fmt.Fprintf(w, "%s\tSENTENCES\tHITS\tSHARE\n", strings.ToUpper(string(k)))
		for _, pkg := range s.packages[k] {
			row(w, pkg, s.counts[k][pkg])
		}
		row(w, "all", s.all[k])
		fmt.Fprintln(w)
	}
	w.Flush()
}

// within reports whether each kind is within its maximum, and prints those that are not.
func (s *summary) within(out io.Writer, most map[kind]*float64) bool {
	good := true
	for _, k := range s.kinds {
		if most[k] != nil && s.all[k].share() > *most[k] {
			fmt.Fprintf(out, "%s: %.2f %% is above the maximum of %g %%; -list PACKAGE prints each hit\n", k, s.all[k].share(), *most[k])
			good = false
		}
	}
	return good
}

func row(w io.Writer, name string, c *count) {
	fmt.Fprintf(w, "%s\t%d\t%d\t%.2f %%\n", name, c.sentences, c.hits, c.share())
}

// list writes each hit in a package or file, or in all.
func list(out io.Writer, found []sentence, where string) {
	where = filepath.Clean(where)
	for _, s := range found {
		if where != "all" && where != s.place() && where != s.file {
			continue
		}
		for _, r := range broken(s.text) {
			fmt.Fprintf(out, "%s:%d: %s: %s\n", s.file, s.line, r.name, s.text)
		}
	}
}
