package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

// Report is the run: what it was told, what it has measured so far, and where it says how far it is.
type Report struct {
	Began    time.Time `json:"began"`
	Took     float64   `json:"took_seconds"`
	Machine  Machine   `json:"machine"`
	Settings Settings  `json:"settings"`
	Rows     []Row     `json:"rows"`
	Failures []string  `json:"failures,omitempty"` // of sections, which then have no rows, or not all

	progress io.Writer
}

// Settings are what the run was told.
type Settings struct {
	Sizes  []Size   `json:"sizes_bytes"`
	Rounds int      `json:"rounds"` // of what is repeated; the rows give medians
	Seed   uint64   `json:"seed"`
	Only   []string `json:"only,omitempty"` // sections; empty for all

	Binary  string `json:"-"` // requorum as it is released, an absolute path
	Etcdctl string `json:"-"` // the same
	Etcdutl string `json:"-"`
	Dir     string `json:"-"` // for everything on disk, removed at the end
}

// Row is one comparison.
type Row struct {
	Section  string  `json:"section"`
	What     string  `json:"what"`
	Against  string  `json:"against,omitempty"` // what Base is of
	Size     Size    `json:"size_bytes,omitempty"`
	Unit     string  `json:"unit"` // of Measured and Base: "s", "bytes", "1/s", …
	Measured float64 `json:"measured"`
	Base     float64 `json:"base,omitempty"`  // 0 if it is compared with nothing
	Ratio    float64 `json:"ratio,omitempty"` // Measured to Base, computed by Add
	// Target is what Ratio must not exceed, or Measured itself where there is no Base. 0: the row is for information.
	Target  float64 `json:"target,omitempty"`
	AtLeast bool    `json:"target_is_a_minimum,omitempty"`
	Met     bool    `json:"met"` // computed by Add; true without a target
	Note    string  `json:"note,omitempty"`
	// All single measurements, in the order in which they were made.
	Samples     []float64 `json:"samples,omitempty"`
	BaseSamples []float64 `json:"base_samples,omitempty"`
}

// Add adds a row, computes its ratio and whether its target is met, and shows it as progress.
func (r *Report) Add(row Row) {
	judged := row.Measured
	if row.Base != 0 {
		row.Ratio = row.Measured / row.Base
		judged = row.Ratio
	}
	switch {
	case row.Target == 0:
		row.Met = true
	case row.AtLeast:
		row.Met = judged >= row.Target
	default:
		row.Met = judged <= row.Target
	}
	r.Rows = append(r.Rows, row)
	r.Say("  %s", row)
}

// Find returns the row of a section about something at a size.
func (r *Report) Find(section, what, against string, size Size) (Row, bool) {
	for _, row := range r.Rows {
		if row.Section == section && row.What == what && row.Against == against && row.Size == size {
			return row, true
		}
	}
	return Row{}, false
}

// Missed counts the targets that are not met.
func (r *Report) Missed() int {
	n := 0
	for _, row := range r.Rows {
		if !row.Met {
			n++
		}
	}
	return n
}

// Say tells how far the run is.
func (r *Report) Say(format string, args ...any) {
	fmt.Fprintf(r.progress, "%6.0fs  %s\n", time.Since(r.Began).Seconds(), fmt.Sprintf(format, args...))
}

// writeJSON writes the report to a file.
func (r *Report) writeJSON(path string) error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil { //nolint:gosec // a report is no secret
		return err
	}
	return os.WriteFile(path, append(data, '\n'), 0o644) //nolint:gosec // the same
}
