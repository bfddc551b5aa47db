package status

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"sigs.k8s.io/yaml"
)

// Printable writes what does not print in numbers: what a Node's name or the kernel's
// message has in it must not steer a terminal, turn the order of letters, nor begin a
// line of its own.
func Printable(s string) string {
	if utf8.ValidString(s) && !strings.ContainsFunc(s, unprintable) {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		switch {
		case r == '\n':
			b.WriteString("; ") // as errors that were joined have it
		case unprintable(r):
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			b.WriteRune(r) // U+FFFD for a byte that is no character
		}
	}
	return b.String()
}

func unprintable(r rune) bool { return !unicode.IsPrint(r) }

// Encoded is what is shown of a value with -o json, or -o yaml, with nothing in it that
// steers a terminal.
func Encoded(what any, output string) ([]byte, error) {
	text, err := json.MarshalIndent(what, "", "  ")
	switch {
	case err != nil:
		return nil, err
	case output == "yaml":
		return yaml.JSONToYAML(printableJSON(text, spelt))
	}
	return append(printableJSON(text, escaped), '\n'), nil
}

// WriteJSON writes a value as Encoded has it.
func WriteJSON(w io.Writer, what any) error {
	text, err := Encoded(what, "json")
	if err != nil {
		return fmt.Errorf("encoding what there is to show: %w", err)
	}
	_, err = w.Write(text)
	return err
}

// printableJSON does the same for JSON, where the lower control characters are
// escaped already (RFC 8259, 7): others are written as escape has them.
func printableJSON(text []byte, escape func(rune) string) []byte {
	if !bytes.ContainsFunc(text, unprintableInJSON) {
		return text
	}
	var b bytes.Buffer
	for _, r := range string(text) {
		if unprintableInJSON(r) {
			b.WriteString(escape(r))
			continue
		}
		b.WriteRune(r)
	}
	return b.Bytes()
}

func unprintableInJSON(r rune) bool { return r != '\n' && unprintable(r) }

// escaped is a character in a string of JSON.
func escaped(r rune) string {
	var b strings.Builder
	for _, unit := range utf16.AppendRune(nil, r) {
		fmt.Fprintf(&b, `\u%04x`, unit)
	}
	return b.String()
}

// spelt is a character's number in a string of JSON that becomes YAML, whose writer
// takes more for printable than we do.
func spelt(r rune) string { return fmt.Sprintf(`\\u%04x`, r) }
