package main

import (
	"fmt"
	"os"
	"strings"
)

// The part of the page between these lines is written by the run.
const (
	tableBegins = "<!-- figures: begin, written by make bench -->"
	tableEnds   = "<!-- figures: end -->"
)

// writeDoc puts the figures into a page, between its markers.
func (r *Report) writeDoc(path string) error {
	page, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	before, rest, begins := strings.Cut(string(page), tableBegins)
	_, after, ends := strings.Cut(rest, tableEnds)
	if !begins || !ends {
		return fmt.Errorf("%s has no place for the figures: it needs the lines %q and %q", path, tableBegins, tableEnds)
	}
	figures := fmt.Sprintf("\n\nMeasured on %s: %s.\n\n%s\n", r.Began.UTC().Format("2006-01-02"), r.Machine, r.Table())
	return os.WriteFile(path, []byte(before+tableBegins+figures+tableEnds+after), 0o644) //nolint:gosec // a page of the documentation
}
