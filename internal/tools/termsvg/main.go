// Command termsvg draws what a terminal has shown as an SVG picture, for the
// README.
//
//	make demo </dev/null 2>&1 | tee log | go -C internal/tools run ./termsvg -title '$ make demo' > demo.svg
//
// Guarantee: the text of the picture is the input, without control sequences and
// what lines have overwritten; nothing is added but the title.
// Concurrency: none.
package main

import (
	"bufio"
	"flag"
	"fmt"
	"html"
	"os"
	"regexp"
	"strings"
	"unicode/utf8"
)

const (
	charWidth  = 7.9 // pixels
	lineHeight = 18
	margin     = 14
	columnsMax = 132
)

// controls are ANSI sequences.
var controls = regexp.MustCompile("\x1b\\[[0-9;?]*[A-Za-z]")

func main() {
	title := flag.String("title", "", "first line")
	lines := flag.Int("lines", 60, "longer input is cut in its middle")
	flag.Parse()
	var text []string
	if *title != "" {
		text = append(text, *title)
	}
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		text = append(text, visible(in.Text()))
	}
	if err := in.Err(); err != nil {
		fmt.Fprintln(os.Stderr, "termsvg:", err)
		os.Exit(1)
	}
	if half := *lines / 2; len(text) > *lines {
		text = append(append(text[:half:half], "..."), text[len(text)-half:]...)
	}
	fmt.Print(draw(text))
}

// visible is what a line shows in the end: carriage returns begin it anew.
func visible(line string) string {
	line = controls.ReplaceAllString(strings.TrimRight(line, "\r "), "")
	line = strings.ReplaceAll(line[strings.LastIndexByte(line, '\r')+1:], "\t", "        ")
	if r := []rune(line); len(r) > columnsMax {
		line = string(r[:columnsMax-1]) + "…"
	}
	return line
}

func draw(text []string) string {
	columns := 0
	for _, l := range text {
		columns = max(columns, utf8.RuneCountInString(l))
	}
	w, h := int(float64(columns)*charWidth)+2*margin, len(text)*lineHeight+2*margin
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %[1]d %[2]d">`+"\n", w, h)
	fmt.Fprintf(&b, `<rect width="%d" height="%d" rx="8" fill="#1c2128"/>`+"\n", w, h)
	b.WriteString(`<g font-family="ui-monospace,DejaVu Sans Mono,Consolas,monospace" font-size="13" fill="#d0d7de" xml:space="preserve">` + "\n")
	for i, l := range text {
		color := ""
		if strings.HasPrefix(l, "$ ") {
			color = ` fill="#7ee787"`
		}
		fmt.Fprintf(&b, `<text x="%d" y="%d"%s xml:space="preserve">%s</text>`+"\n", margin, margin+(i+1)*lineHeight-5, color, html.EscapeString(l))
	}
	b.WriteString("</g>\n</svg>\n")
	return b.String()
}
