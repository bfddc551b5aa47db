package main

import (
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

// A kind is where a sentence stands. Each but other has a maximum of its own.
type kind string

const (
	comment kind = "comments"      // of cmd, controllers and pkg
	text    kind = "strings"       // of the same packages, tests left out
	other   kind = "test, hack"    // comments of test and hack
	page    kind = "docs, READMEs" // Markdown
)

// A sentence is one of a comment, a string or a page.
type sentence struct {
	kind kind
	file string // relative to the root
	line int    // where it begins, from 1
	text string
}

// A word is one of a paragraph, with its line.
type word struct {
	text string
	line int
}

// paragraph collects words until a sentence, or the paragraph itself, ends.
type paragraph struct {
	kind  kind
	file  string
	words []word
	done  []sentence
}

func (p *paragraph) add(line int, s string) {
	for _, w := range strings.Fields(s) {
		p.words = append(p.words, word{w, line})
	}
}

// end splits what was collected into sentences. One without two letters in a row is none.
func (p *paragraph) end() {
	first, quoted := 0, false
	for i, w := range p.words {
		if strings.Count(w.text, "`")%2 == 1 {
			quoted = !quoted
		}
		last := i == len(p.words)-1
		if last || !quoted && ends(w.text) && begins(p.words[i+1].text) {
			p.sentence(p.words[first : i+1])
			first = i + 1
		}
	}
	p.words = nil
}

var letters = regexp.MustCompile(`\pL\pL`)

func (p *paragraph) sentence(words []word) {
	var all []string
	for _, w := range words {
		all = append(all, w.text)
	}
	s := strings.Join(all, " ")
	if letters.MatchString(s) {
		p.done = append(p.done, sentence{p.kind, p.file, words[0].line, s})
	}
}

var abbreviation = regexp.MustCompile(`^\(?(e\.g|i\.e|vs|etc|cf|resp|incl|approx|\pL)\.$`)

// ends reports whether a sentence may end with the word.
func ends(w string) bool {
	bare := strings.TrimRight(w, `"')]*_`+"`")
	return bare != "" && strings.ContainsAny(bare[len(bare)-1:], ".!?") && !abbreviation.MatchString(bare)
}

// begins reports whether a sentence may begin with the word.
func begins(w string) bool {
	r, _ := utf8.DecodeRuneInString(strings.TrimLeft(w, `"'([*_`))
	return !unicode.IsLower(r)
}
