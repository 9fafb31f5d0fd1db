package main

import (
	"fmt"
	"html"
	"os"
	"path/filepath"
	"strings"
)

// writeRecording writes what the demo told as text, and as a picture for the README.
func writeRecording(dir, text string) error {
	text = strings.TrimRight(text, "\n") + "\n"
	for name, content := range map[string]string{"demo.txt": text, "demo.svg": picture(excerpt(text))} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil { //nolint:gosec // a page of the documentation
			return err
		}
	}
	return nil
}

// excerpt returns the title and the chapter that the picture shows, which is the first restore.
func excerpt(text string) string {
	title, rest, _ := strings.Cut(text, "\n")
	_, rest, _ = strings.Cut(rest, "\n4. ")
	chapter, _, _ := strings.Cut(rest, "\n\n5. ")
	return title + "\n\n" + chapter + "\n"
}

const (
	glyphWidth = 7.83 // of a character of 13 px, in pixels
	lineHeight = 18
	margin     = 16
)

// picture draws a recording as a terminal would show it.
func picture(text string) string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	columns := 0
	for _, l := range lines {
		columns = max(columns, len([]rune(l)))
	}
	width, height := int(float64(columns)*glyphWidth)+2*margin, len(lines)*lineHeight+2*margin
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" role="img" aria-label="Recording of make demo">`, width, height, width, height)
	b.WriteString("\n" + `<rect width="100%" height="100%" rx="8" fill="#16181d"/>` + "\n")
	b.WriteString(`<g font-family="ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace" font-size="13" xml:space="preserve">` + "\n")
	for i, l := range lines {
		if l == "" {
			continue
		}
		color, weight := look(l, i == 0)
		fmt.Fprintf(&b, `<text x="%d" y="%d" fill="%s"%s textLength="%.0f">%s</text>`+"\n",
			margin, margin+13+i*lineHeight, color, weight, float64(len([]rune(l)))*glyphWidth, html.EscapeString(strings.ReplaceAll(l, " ", "\u00a0")))
	}
	b.WriteString("</g>\n</svg>\n")
	return b.String()
}

// look returns the colour and the weight of a line.
func look(line string, first bool) (color, weight string) {
	text := strings.TrimSpace(line)
	switch {
	case first || !strings.HasPrefix(line, " "), strings.HasPrefix(text, "$ "):
		return "#ffffff", ` font-weight="bold"`
	case strings.HasPrefix(text, "✓"):
		return "#7fd88f", ""
	case strings.HasPrefix(text, "✗"), strings.HasPrefix(text, "no writes"), strings.HasPrefix(text, "no reads"):
		return "#f47c7c", ""
	case strings.HasPrefix(text, "!"):
		return "#e5c07b", ""
	}
	return "#b9bec8", ""
}
