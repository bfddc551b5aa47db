package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"maps"
	"os"
	"slices"
	"time"
)

// A coverage keeps, from one run to the next, the figures of tests, while the code that they
// test, and with it the numbers of mutants, stays as it is.
type coverage struct {
	file string
	code string // a digest of the package's files
	all  map[string]coverages
}

// coverages are those of one package's code, by binary and test.
type coverages struct {
	Code  string
	Tests map[string]testCoverage
}

type testCoverage struct {
	Took time.Duration
	Hits []int
}

// newCoverage reads the file; one that is not there, or can't be read, has nothing.
func newCoverage(file string, s *suite) *coverage {
	digest := sha256.New()
	for _, f := range s.files {
		digest.Write(f.text)
	}
	c := &coverage{file: file, code: hex.EncodeToString(digest.Sum(nil)), all: map[string]coverages{}}
	if b, err := os.ReadFile(file); err == nil {
		_ = json.Unmarshal(b, &c.all)
	}
	return c
}

// has fills in the figures of a test.
func (c *coverage) has(t *test) bool {
	known := c.all[t.binary.of]
	seen, ok := known.Tests[t.key()]
	if !ok || known.Code != c.code {
		return false
	}
	t.took, t.hits = seen.Took, map[int]bool{}
	for _, id := range seen.Hits {
		t.hits[id] = true
	}
	return true
}

// write writes the figures of tests, if a file is named.
func (c *coverage) write(tests []*test) error {
	if c.file == "" || len(tests) == 0 {
		return nil
	}
	now := coverages{c.code, map[string]testCoverage{}}
	if of := c.all[tests[0].binary.of]; of.Code == c.code {
		maps.Copy(now.Tests, of.Tests)
	}
	for _, t := range tests {
		now.Tests[t.key()] = testCoverage{t.took, slices.Sorted(maps.Keys(t.hits))}
	}
	c.all[tests[0].binary.of] = now
	b, err := json.Marshal(c.all)
	if err != nil {
		return err
	}
	return os.WriteFile(c.file, b, 0o600)
}
