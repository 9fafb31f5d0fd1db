package main

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/dustin/go-humanize"
)

// String tells the row in one line.
func (r Row) String() string {
	text := fmt.Sprintf("%s: %s", r.title(), r.amount(r.Measured))
	if r.Base != 0 {
		text += fmt.Sprintf(", %s × %s (%s)", number(r.Ratio), r.amount(r.Base), r.Against)
	}
	if r.Target != 0 {
		text += fmt.Sprintf("; target %s: %s", r.target(), r.verdict())
	}
	return text
}

// title says what was measured, and at which size.
func (r Row) title() string {
	if r.Size == 0 {
		return r.What
	}
	return r.What + " (" + r.Size.String() + ")"
}

func (r Row) target() string {
	if r.Target == 0 {
		return "–"
	}
	sign, times := "≤ ", " ×"
	if r.AtLeast {
		sign = "≥ "
	}
	if r.Base == 0 {
		return sign + r.amount(r.Target)
	}
	return sign + number(r.Target) + times
}

func (r Row) verdict() string {
	switch {
	case r.Target == 0:
		return "–"
	case r.Met:
		return "met"
	}
	return "MISSED"
}

// amount writes an amount in the unit of the row.
func (r Row) amount(n float64) string {
	if r.Unit == "bytes" {
		if n < 0 {
			return "−" + r.amount(-n)
		}
		return humanize.IBytes(uint64(n))
	}
	return strings.TrimRight(number(n)+" "+r.Unit, " ")
}

// number writes a number with three digits that count.
func number(n float64) string {
	if n >= 100 || n <= -100 {
		return humanize.Comma(int64(n + 0.5))
	}
	return strconv.FormatFloat(n, 'g', 3, 64)
}

// Table returns the rows as a table in Markdown, which is easy enough to read as it is.
func (r *Report) Table() string {
	header := []string{"what", "against", "measured", "against", "ratio", "target", ""}
	lines := [][]string{header}
	var notes []string
	for _, row := range r.Rows {
		base, ratio := "–", "–"
		if row.Base != 0 {
			base, ratio = row.amount(row.Base), number(row.Ratio)+" ×"
		}
		what := row.title()
		if row.Note != "" {
			notes = append(notes, row.Note)
			what += fmt.Sprintf(" [%d]", len(notes))
		}
		lines = append(lines, []string{what, orDash(row.Against), row.amount(row.Measured), base, ratio, row.target(), row.verdict()})
	}
	text := align(lines)
	for i, note := range notes {
		text += fmt.Sprintf("\n[%d] %s\n", i+1, note)
	}
	return text
}

func orDash(s string) string {
	if s == "" {
		return "–"
	}
	return s
}

// align makes a table of Markdown whose columns are equally wide in every line.
func align(lines [][]string) string {
	widths := make([]int, len(lines[0]))
	for _, cells := range lines {
		for i, cell := range cells {
			widths[i] = max(widths[i], len([]rune(cell)), 3)
		}
	}
	var b strings.Builder
	for n, cells := range lines {
		for i, cell := range cells {
			b.WriteString("| " + cell + strings.Repeat(" ", widths[i]-len([]rune(cell))+1))
		}
		b.WriteString("|\n")
		if n == 0 {
			for _, width := range widths {
				b.WriteString("|" + strings.Repeat("-", width+2))
			}
			b.WriteString("|\n")
		}
	}
	return b.String()
}
