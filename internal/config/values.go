package config

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"go.yaml.in/yaml/v3"
)

// Duration is a length of time written with its unit, as 72h, 10m or 1h30m, in a file or on the
// command line.
type Duration time.Duration

// Std returns the duration as the standard library's type.
func (d Duration) Std() time.Duration { return time.Duration(d) }

// String writes the duration without zero units: 72h, not 72h0m0s.
func (d Duration) String() string {
	s := time.Duration(d).String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// Set parses s; it makes *Duration usable as a flag. Negative durations are refused.
func (d *Duration) Set(s string) error {
	parsed, err := time.ParseDuration(s)
	if err != nil {
		return fmt.Errorf("%q is not a duration; write it with its unit, as 72h or 10m", s)
	}
	if parsed < 0 {
		return fmt.Errorf("%q is negative", s)
	}
	*d = Duration(parsed)
	return nil
}

// Type names the kind of value in a flag's help.
func (d *Duration) Type() string { return "duration" }

// UnmarshalYAML reads a duration written with its unit.
func (d *Duration) UnmarshalYAML(n *yaml.Node) error { return set(n, d.Set) }

// MarshalYAML writes the duration as String does.
func (d Duration) MarshalYAML() (any, error) { return d.String(), nil }

// Bytes is a size written with or without a unit, as 512MiB, 2GB or 65536, in a file or on the
// command line.
type Bytes uint64

// String writes the size in binary units.
func (b Bytes) String() string { return humanize.IBytes(uint64(b)) }

// Set parses s; it makes *Bytes usable as a flag.
func (b *Bytes) Set(s string) error {
	parsed, err := humanize.ParseBytes(s)
	if err != nil {
		return fmt.Errorf("%q is not a size; write it as 512MiB, 2GB or 65536", s)
	}
	if parsed > math.MaxInt64 {
		return fmt.Errorf("%q is too large", s)
	}
	*b = Bytes(parsed)
	return nil
}

// Type names the kind of value in a flag's help.
func (b *Bytes) Type() string { return "size" }

// UnmarshalYAML reads a size.
func (b *Bytes) UnmarshalYAML(n *yaml.Node) error { return set(n, b.Set) }

var errNotScalar = errors.New("a single value is needed here")

func set(n *yaml.Node, parse func(string) error) error {
	err := errNotScalar
	if n.Kind == yaml.ScalarNode {
		err = parse(n.Value)
	}
	if err != nil {
		return &yaml.TypeError{Errors: []string{fmt.Sprintf("line %d: %v", n.Line, err)}}
	}
	return nil
}
