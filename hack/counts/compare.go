package main

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// counts are values by "folder benchmark unit".
type counts map[string]float64

const head = "# What benchmarks count. `make bench-check` compares them, `make bench-counts` writes this file.\n"

// String returns the counts as a file.
func (c counts) String() string {
	var file strings.Builder
	file.WriteString(head)
	for _, name := range slices.Sorted(maps.Keys(c)) {
		fmt.Fprintf(&file, "%s %s\n", name, strconv.FormatFloat(c[name], 'f', -1, 64))
	}
	return file.String()
}

func parseCounts(file string) (counts, error) {
	all := counts{}
	for line := range strings.Lines(file) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		at := strings.LastIndexByte(line, ' ')
		value, err := strconv.ParseFloat(line[at+1:], 64)
		if at < 0 || err != nil {
			return nil, fmt.Errorf("%q is not a folder, a benchmark, a unit and a number", line)
		}
		all[line[:at]] = value
	}
	return all, nil
}

// tolerance is the share by which a count may differ from the saved one.
const tolerance = 0.1

// compare returns a line for each count that has grown or that only one side has, and for each that has fallen.
func compare(saved, now counts) (worse, better []string) {
	names := maps.Clone(saved)
	maps.Copy(names, now)
	for _, name := range slices.Sorted(maps.Keys(names)) {
		was, known := saved[name]
		is, measured := now[name]
		switch line := fmt.Sprintf("%s: %g, saved %g", name, is, was); {
		case !measured:
			worse = append(worse, name+": saved, and not measured")
		case !known:
			worse = append(worse, fmt.Sprintf("%s: %g, not saved", name, is))
		case is > was*(1+tolerance):
			worse = append(worse, line+change(was, is))
		case is < was*(1-tolerance):
			better = append(better, line+change(was, is))
		}
	}
	return worse, better
}

func change(was, is float64) string {
	if was == 0 {
		return ""
	}
	return fmt.Sprintf(" (%+.0f %%)", 100*(is/was-1))
}
