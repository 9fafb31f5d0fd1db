package config

import (
	"errors"
	"fmt"
	"math"
	"strconv"
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

// Lifetime is a length of time that is written as a Duration, as a number of days, 30d, or as a number of seconds
// without a unit, as other backup policies have it.
type Lifetime time.Duration

const day = 24 * time.Hour

// Std returns the lifetime as the standard library's type.
func (l Lifetime) Std() time.Duration { return time.Duration(l) }

// String writes whole days as days, and anything else as a Duration.
func (l Lifetime) String() string {
	if d := time.Duration(l); d > 0 && d%day == 0 {
		return fmt.Sprintf("%dd", d/day)
	}
	return Duration(l).String()
}

// Set parses s; it makes *Lifetime usable as a flag.
func (l *Lifetime) Set(s string) error {
	number, unit := s, time.Second
	if days, ok := strings.CutSuffix(s, "d"); ok {
		number, unit = days, day
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil {
		var d Duration
		if d.Set(s) != nil {
			return fmt.Errorf("%q is not a length of time; write it as 30d, 72h, 10m or a number of seconds", s)
		}
		*l = Lifetime(d)
		return nil
	}
	if n < 0 || n > math.MaxInt64/int64(unit) {
		return fmt.Errorf("%q is out of range", s)
	}
	*l = Lifetime(time.Duration(n) * unit)
	return nil
}

// Type names the kind of value in a flag's help.
func (l *Lifetime) Type() string { return "duration" }

// UnmarshalYAML reads a lifetime.
func (l *Lifetime) UnmarshalYAML(n *yaml.Node) error { return set(n, l.Set) }

// MarshalYAML writes the lifetime as String does.
func (l Lifetime) MarshalYAML() (any, error) { return l.String(), nil }
