// Package text has what commands share to print for people and programs.
package text

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

// Printable escapes characters that do not print: the name of a Node or a message of the kernel
// must not control a terminal, reverse the order of letters, or begin a new line.
func Printable(s string) string {
	if utf8.ValidString(s) && !strings.ContainsFunc(s, unprintable) {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		switch {
		case r == '\n':
			b.WriteString("; ") // as in joined errors
		case unprintable(r):
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			b.WriteRune(r) // U+FFFD for an invalid byte
		}
	}
	return b.String()
}

func unprintable(r rune) bool { return !unicode.IsPrint(r) }

// Encoded returns a value as -o json or -o yaml prints it, with characters that could control a
// terminal escaped.
func Encoded(value any, output string) ([]byte, error) {
	text, err := json.MarshalIndent(value, "", "  ")
	switch {
	case err != nil:
		return nil, err
	case output == "yaml":
		return yaml.JSONToYAML(printableJSON(text, yamlEscape))
	}
	return append(printableJSON(text, jsonEscape), '\n'), nil
}

// WriteJSON writes a value as -o json prints it.
func WriteJSON(w io.Writer, value any) error {
	text, err := Encoded(value, "json")
	if err != nil {
		return fmt.Errorf("encoding JSON: %w", err)
	}
	_, err = w.Write(text)
	return err
}

// printableJSON replaces such characters in JSON, where the lower control characters are escaped
// already (RFC 8259, 7).
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

// jsonEscape returns a character as a JSON string has it.
func jsonEscape(r rune) string {
	var b strings.Builder
	for _, unit := range utf16.AppendRune(nil, r) {
		fmt.Fprintf(&b, `\u%04x`, unit)
	}
	return b.String()
}

// yamlEscape returns a character's code for a JSON string that becomes YAML, whose writer leaves
// more characters as they are.
func yamlEscape(r rune) string { return fmt.Sprintf(`\\u%04x`, r) }
