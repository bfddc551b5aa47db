package main

import (
	"fmt"
	"os"
	"strings"
)

// A knownList names mutants that are alive for a reason: lines that begin with # give the reason of
// the lines after them, each of which is the key of a mutant.
type knownList struct {
	keys    []string
	reasons map[string]string
	found   map[string]bool // those that the code has
}

func readKnown(file string) (*knownList, error) {
	list := &knownList{reasons: map[string]string{}, found: map[string]bool{}}
	if file == "" {
		return list, nil
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("reading what is known to be alive: %w", err)
	}
	return list, list.parse(file, string(b))
}

func (l *knownList) parse(file, text string) error {
	reason, more := "", false
	for i, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		words, comment := strings.CutPrefix(line, "#")
		switch words = strings.TrimSpace(words); {
		case line == "":
			reason, more = "", false
		case comment && more:
			reason += " " + words
		case comment:
			reason, more = words, true
		case reason == "":
			return fmt.Errorf("%s:%d: no reason stands above: %s", file, i+1, line)
		case l.reasons[line] != "":
			return fmt.Errorf("%s:%d: listed twice: %s", file, i+1, line)
		default:
			l.keys, l.reasons[line], more = append(l.keys, line), reason, false
		}
	}
	return nil
}
