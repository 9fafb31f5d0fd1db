package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// report is what a run of the matrix has seen.
type report struct {
	Seed    uint64    `json:"seed"`
	Level   string    `json:"level"`
	Began   time.Time `json:"began"`
	Seconds float64   `json:"seconds"`
	Points  int       `json:"points"`
	Skipped []string  `json:"skipped,omitempty"` // faults that are not possible here, and why
	Idle    []string  `json:"idle,omitempty"`    // declared points that no run without faults has passed
	Cells   []outcome `json:"cells"`
}

// failed are the cells in which anything went wrong.
func (r *report) failed() []outcome {
	return slices.DeleteFunc(slices.Clone(r.Cells), func(o outcome) bool { return len(o.Failures) == 0 })
}

// write writes the report to a directory, as JSON and as a table.
func (r *report) write(dir string) error {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "fault-matrix.json"), append(data, '\n'), 0o600); err != nil {
		return err
	}
	text := "# Fault matrix\n\n" + r.summary() + "\n" + r.table() + r.details()
	return os.WriteFile(filepath.Join(dir, "fault-matrix.md"), []byte(text), 0o600)
}

const docHeading = "## A run\n\n"

// document puts the counts of this run into a page of the documentation.
func (r *report) document(path string) error {
	page, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	before, _, found := strings.Cut(string(page), docHeading)
	if !found {
		return fmt.Errorf("%s has no heading %q", path, strings.TrimSpace(docHeading))
	}
	return os.WriteFile(path, []byte(before+docHeading+r.summary()+"\n"+r.counts()), 0o600)
}

// counts has a line for each kind of fault.
func (r *report) counts() string {
	var b strings.Builder
	b.WriteString("| fault | succeeded | reverted | refused |\n|---|---|---|---|\n")
	for _, kind := range kinds {
		ended := map[string]int{}
		for _, o := range r.Cells {
			if o.Fault == kind {
				ended[o.Ended]++
			}
		}
		fmt.Fprintf(&b, "| %s | %d | %d | %d |\n", kind, ended["succeeded"], ended["reverted"], ended["refused"])
	}
	return b.String()
}

// summary counts.
func (r *report) summary() string {
	counts, missed := map[string]int{}, 0
	for _, o := range r.Cells {
		counts[o.Ended]++
		if o.Missed {
			missed++
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "Level %s, seed %d: %d runs in %s on %d fault points. %d succeeded, %d were reverted, %d were refused; the oracle found fault with %d.\n",
		r.Level, r.Seed, len(r.Cells), time.Duration(r.Seconds*float64(time.Second)).Round(time.Second), r.Points,
		counts["succeeded"], counts["reverted"], counts["refused"], len(r.failed()))
	if missed > 0 {
		fmt.Fprintf(&b, "%d runs did not come to their place.\n", missed)
	}
	for _, s := range r.Skipped {
		fmt.Fprintf(&b, "Left out: %s.\n", s)
	}
	return b.String()
}

// table has a line for each step and a column for each kind of fault.
func (r *report) table() string {
	var b strings.Builder
	fmt.Fprintf(&b, "| step | %s |\n|---|%s\n", strings.Join(kinds, " | "), strings.Repeat("---|", len(kinds)))
	for _, row := range rows() {
		fmt.Fprintf(&b, "| %s |", row)
		for _, kind := range kinds {
			fmt.Fprintf(&b, " %s |", r.entry(row.String(), kind))
		}
		b.WriteString("\n")
	}
	b.WriteString("\ns succeeded, r reverted, f refused; a number before it counts runs; ✗ the oracle found fault; – nothing to hit there.\n\n")
	for _, kind := range kinds {
		fmt.Fprintf(&b, "- %s: %s\n", kind, column[kind])
	}
	return b.String()
}

func (r *report) entry(step, kind string) string {
	letters := map[string]string{"succeeded": "s", "reverted": "r", "refused": "f"}
	counts, bad := map[string]int{}, 0
	for _, o := range r.Cells {
		if o.Step != step || o.Fault != kind {
			continue
		}
		if len(o.Failures) > 0 {
			bad++
			continue
		}
		counts[letters[o.Ended]]++
	}
	var parts []string
	for _, l := range []string{"s", "r", "f"} {
		switch {
		case counts[l] == 1:
			parts = append(parts, l)
		case counts[l] > 1:
			parts = append(parts, fmt.Sprintf("%d %s", counts[l], l))
		}
	}
	if bad > 0 {
		parts = append(parts, fmt.Sprintf("%d ✗", bad))
	}
	if len(parts) == 0 {
		return "–"
	}
	return strings.Join(parts, ", ")
}

// details says what went wrong and how to see it again.
func (r *report) details() string {
	var b strings.Builder
	if len(r.Idle) > 0 {
		fmt.Fprintf(&b, "\nNever passed without a fault: %s.\n", strings.Join(r.Idle, ", "))
	}
	for _, o := range r.failed() {
		fmt.Fprintf(&b, "\n## %s\n\n    %s\n\n", o.Cell, again(o))
		for _, f := range o.Failures {
			fmt.Fprintf(&b, "    %s\n", strings.ReplaceAll(f, "\n", "\n    "))
		}
	}
	return b.String()
}

// again is the command that repeats one cell.
func again(o outcome) string { return fmt.Sprintf("make fault-matrix MATRIX_CELL='%s'", o.Cell) }
