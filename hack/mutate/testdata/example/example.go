// Package example has code for each operator, with tests that see it or don't.
package example

import "errors"

var errNegative = errors.New("negative")

// Sum adds up the numbers below a limit. Its tests see all of it but the boundary.
func Sum(all []int, limit int) (int, error) {
	sum := 0
	for _, x := range all {
		if x < 0 {
			return 0, errNegative
		}
		if x > limit {
			continue
		}
		sum += x
	}
	return sum, nil
}

// Wait counts up: without its step it never ends.
func Wait(n int) int {
	i := 0
	for i != n {
		i++
	}
	return i
}

// Unseen is called by no test.
func Unseen(a, b bool) bool {
	return a && b
}

// Shift has a constant whose type comes from where it stands, which a mutant of it would change.
func Shift(b byte, by int) byte {
	b |= 1<<by - 1
	return b
}
