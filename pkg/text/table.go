package text

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"k8s.io/apimachinery/pkg/util/duration"
)

// None stands for an unknown value in a table.
const None = "-"

// Colors of a terminal (ECMA-48, SGR).
const (
	Red    = "31"
	Green  = "32"
	Yellow = "33"
)

// Paint returns a text in a color; if enabled is false or the color is empty, the text as it is.
func Paint(enabled bool, color, text string) string {
	if !enabled || color == "" {
		return text
	}
	return "\x1b[" + color + "m" + text + "\x1b[0m"
}

// Counted returns a count and its noun, whose plural ends in s.
func Counted(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return strconv.Itoa(n) + " " + noun + "s"
}

// More returns that there are n more, of what is named if anything is.
func More(n int, what string) string {
	return strings.TrimSpace(fmt.Sprintf("and %d more %s", n, what))
}

// Shorten shortens a text to at most limit bytes, between two characters.
func Shorten(text string, limit int) string {
	const dots = "..."
	if len(text) <= limit {
		return text
	}
	end := limit - len(dots)
	for !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end] + dots
}

// Some joins the first few of the names, and adds how many more there are of count.
func Some(names []string, count, few int) string {
	switch shown := names[:min(few, len(names))]; {
	case count > few:
		return strings.Join(shown, ", ") + " " + More(count-few, "")
	case len(shown) > 1:
		return strings.Join(shown[:len(shown)-1], ", ") + " and " + shown[len(shown)-1]
	default:
		return strings.Join(shown, "")
	}
}

// List joins values; without any it returns None.
func List[T any](values []T, separator string) string {
	words := make([]string, len(values))
	for i, v := range values {
		words[i] = fmt.Sprint(v)
	}
	return cmp.Or(strings.Join(words, separator), None)
}

// OrNone returns a value as text, or None for the zero value.
func OrNone[T comparable](value T) string {
	var zero T
	if value == zero {
		return None
	}
	return fmt.Sprint(value)
}

// Age returns how long ago something was, as kubectl prints it. A time in the future, by another
// machine's clock, is now.
func Age(now, then time.Time) string {
	if then.IsZero() {
		return None
	}
	return duration.HumanDuration(max(now.Sub(then), 0))
}

// Gap is the usual number of characters between the columns of a table.
const Gap = 3

// Table writes rows in columns that are gap characters apart, without spaces at the end, and passes
// each line to paint unless that is nil. Of thousands of rows text/tabwriter takes five times as long.
func Table(w io.Writer, gap int, header []string, rows [][]string, paint func(row int, line string) string) {
	widths := make([]int, len(header))
	for _, row := range append([][]string{header}, rows...) {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	fmt.Fprintf(w, "%s\n", padded(header, widths, gap))
	for i, row := range rows {
		line := string(padded(row, widths, gap))
		if paint != nil {
			line = paint(i, line)
		}
		fmt.Fprintln(w, line)
	}
}

// padded makes all cells but the last as wide as their columns.
func padded(row []string, widths []int, gap int) []byte {
	line := make([]byte, 0, 128)
	for i, cell := range row {
		line = append(line, cell...)
		for n := utf8.RuneCountInString(cell); i < len(row)-1 && n < widths[i]+gap; n++ {
			line = append(line, ' ')
		}
	}
	return bytes.TrimRight(line, " ")
}
