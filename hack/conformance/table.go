package main

import (
	"bytes"
	"cmp"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/onsi/ginkgo/v2"
	"github.com/onsi/ginkgo/v2/types"
)

// tabulate writes the result of each test to a file, as a table in Markdown.
func tabulate(report ginkgo.Report, file string) error {
	specs := slices.DeleteFunc(slices.Clone(report.SpecReports), notChosen)
	slices.SortFunc(specs, func(a, b types.SpecReport) int { return cmp.Compare(a.FullText(), b.FullText()) })
	var b bytes.Buffer
	counts := map[types.SpecState]int{}
	fmt.Fprintf(&b, "| test | outcome | took |\n| --- | --- | ---: |\n")
	for _, spec := range specs {
		counts[spec.State]++
		fmt.Fprintf(&b, "| %s | %s | %s |\n", name(spec), outcome(spec), spec.RunTime.Round(time.Second))
	}
	fmt.Fprintf(&b, "\n%d tests", len(specs))
	for _, state := range []types.SpecState{types.SpecStatePassed, types.SpecStateFailed, types.SpecStateTimedout, types.SpecStateSkipped} {
		if counts[state] > 0 {
			fmt.Fprintf(&b, ", %d %s", counts[state], state)
		}
	}
	fmt.Fprintf(&b, ", in %s.\n", report.RunTime.Round(time.Second))
	return os.WriteFile(file, b.Bytes(), 0o644)
}

// notChosen separates the tests that were not to run, and nodes that aren't tests, from those that
// skipped themselves, with a reason.
func notChosen(spec types.SpecReport) bool {
	return spec.LeafNodeType != types.NodeTypeIt || spec.State == types.SpecStatePending ||
		spec.State == types.SpecStateSkipped && spec.Failure.Message == ""
}

// name leaves out what all have in common, and labels, which repeat the text.
func name(spec types.SpecReport) string {
	return cell(strings.TrimPrefix(spec.FullText(), "[sig-network] "))
}

func outcome(spec types.SpecReport) string {
	if spec.State == types.SpecStatePassed {
		return "passed"
	}
	message, _, _ := strings.Cut(spec.Failure.Message, "\n")
	return cell("**" + spec.State.String() + "**: " + message)
}

func cell(text string) string { return strings.ReplaceAll(text, "|", `\|`) }
