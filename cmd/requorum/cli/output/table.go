package output

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

const columnGap = 2

// Rows is a table whose columns are as wide as their widest cell.
type Rows struct {
	rows   [][]string
	indent string
}

// NewTable returns a table with a heading.
func NewTable(heading ...string) *Rows {
	t := &Rows{}
	t.Row(heading...)
	return t
}

// NewList returns a table without a heading, each row indented by so many spaces.
func NewList(indent int) *Rows { return &Rows{indent: strings.Repeat(" ", indent)} }

// Row adds a row. Control characters are taken out of its cells; an empty cell shows as a dash.
func (t *Rows) Row(cells ...string) {
	row := make([]string, len(cells))
	for i, cell := range cells {
		if row[i] = Clean(cell); row[i] == "" {
			row[i] = "-"
		}
	}
	t.rows = append(t.rows, row)
}

// WriteTo writes the table.
func (t *Rows) WriteTo(w io.Writer) (int64, error) {
	var b strings.Builder
	widths := t.widths()
	for _, row := range t.rows {
		line := t.indent
		for i, cell := range row {
			line += cell + strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell)+columnGap)
		}
		b.WriteString(strings.TrimRight(line, " ") + "\n")
	}
	n, err := io.WriteString(w, b.String())
	return int64(n), err
}

func (t *Rows) widths() []int {
	var widths []int
	for _, row := range t.rows {
		for i, cell := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	return widths
}

// Fields is a list of names and values, for showing one thing in full.
type Fields struct{ list *Rows }

// NewFields returns an empty list.
func NewFields() *Fields { return &Fields{list: NewList(0)} }

// Add adds a field; it is left out if value is empty.
func (f *Fields) Add(name, format string, args ...any) {
	if value := fmt.Sprintf(format, args...); value != "" {
		f.list.Row(name+":", value)
	}
}

// WriteTo writes the list.
func (f *Fields) WriteTo(w io.Writer) (int64, error) { return f.list.WriteTo(w) }
