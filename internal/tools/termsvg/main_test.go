package main

import (
	"encoding/xml"
	"strings"
	"testing"
)

func TestDraw(t *testing.T) {
	for in, want := range map[string]string{
		"10%\r 50%\r100% done\x1b[K": "100% done",
		"\x1b[1;31mred\x1b[0m text":  "red text",
		"a\tb":                       "a        b",
		strings.Repeat("x", 200):     strings.Repeat("x", columnsMax-1) + "…",
	} {
		if got := visible(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
	svg := draw([]string{"$ echo '<&>'", "<&>"})
	var any struct {
		Texts []string `xml:"g>text"`
	}
	if err := xml.Unmarshal([]byte(svg), &any); err != nil || len(any.Texts) != 2 || any.Texts[1] != "<&>" {
		t.Errorf("%v %q\n%s", err, any.Texts, svg)
	}
}
