package text

import (
	"bytes"
	"testing"
)

// A byte that is not a character may be a command too: 0x9b begins one on a terminal of 8 bits.
func TestPrintable(t *testing.T) {
	for value, want := range map[string]string{
		"Zürich, 10.244.0.0/16": "Zürich, 10.244.0.0/16",
		"one\ntwo":              "one; two",
		"\x1b[31m\u009b31m":     `\u001b[31m\u009b31m`,
		"eth\x9b31m":            "eth\ufffd31m",
	} {
		if got := Printable(value); got != want {
			t.Errorf("%q becomes %q, want %q", value, got, want)
		}
	}
}

func TestWriteJSON(t *testing.T) {
	var b bytes.Buffer
	if err := WriteJSON(&b, map[string]string{"a": "\u009b31m\x1b\x9b<"}); err != nil || b.String() != "{\n  \"a\": \"\\u009b31m\\u001b\\ufffd\\u003c\"\n}\n" {
		t.Errorf("%v: %s", err, b.String())
	}
}
