package main

import (
	"fmt"
	"strconv"
	"strings"
)

// Size is an amount of data in bytes.
type Size int64

const gib = 1 << 30

// GiB returns the size in GiB.
func (s Size) GiB() float64 { return float64(s) / gib }

// String returns the size as people say it: "1 GiB".
func (s Size) String() string { return strconv.FormatFloat(s.GiB(), 'g', 3, 64) + " GiB" }

// parseSizes reads numbers of GiB, joined by commas.
func parseSizes(text string) ([]Size, error) {
	var sizes []Size
	for part := range strings.SplitSeq(text, ",") {
		n, err := strconv.ParseFloat(strings.TrimSpace(part), 64)
		if err != nil || n < 0.01 || n > 64 {
			return nil, fmt.Errorf("size %q is not a number of GiB between 0.01 and 64", part)
		}
		sizes = append(sizes, Size(n*gib))
	}
	return sizes, nil
}
