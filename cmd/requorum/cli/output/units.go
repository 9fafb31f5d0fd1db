package output

import (
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"

	"google.golang.org/protobuf/types/known/timestamppb"
)

// thin is U+202F, a narrow space at which no line is broken and no column is split.
const thin = "\u202f"

// Bytes writes a size in binary units with two significant digits at least: 512 B, 1.2 GiB, 31 GiB.
func Bytes(n int64) string {
	value, unit := Scale(n)
	return value(n) + " " + unit
}

// Of writes a part and a whole in the whole's unit: 1.0 of 1.2 GiB.
func Of(part, whole int64) string {
	value, unit := Scale(whole)
	return value(part) + " of " + value(whole) + " " + unit
}

// Scale returns the binary unit that suits n, and a function that writes sizes in that unit.
func Scale(n int64) (func(int64) string, string) {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB"}
	i, divisor := 0, float64(1)
	// 1023.5 and above would round to 1024 of the unit.
	for i < len(units)-1 && float64(n)/divisor >= 1023.5 {
		i, divisor = i+1, divisor*1024
	}
	return func(n int64) string {
		v := float64(n) / divisor
		if i == 0 || v >= 9.95 {
			return strconv.FormatFloat(v, 'f', 0, 64)
		}
		return strconv.FormatFloat(v, 'f', 1, 64)
	}, units[i]
}

// Grouped writes a number with its digits in groups of three.
func Grouped(n int64) string {
	digits := strconv.FormatInt(n, 10)
	sign := ""
	if n < 0 {
		sign, digits = "-", digits[1:]
	}
	var groups []string
	for len(digits) > 3 {
		groups = append([]string{digits[len(digits)-3:]}, groups...)
		digits = digits[:len(digits)-3]
	}
	return sign + strings.Join(append([]string{digits}, groups...), thin)
}

// longest is how many characters Brief leaves of a text.
const longest = 300

// Brief is a text's first line, or as much of it as can be read at a glance, with " …" for the rest.
func Brief(text string) string {
	line, rest, _ := strings.Cut(strings.TrimSpace(text), "\n")
	line = strings.TrimSpace(line)
	if runes := []rune(line); len(runes) > longest {
		line, rest = string(runes[:longest]), "cut"
	}
	if rest != "" {
		line += " …"
	}
	return line
}

// Ago writes how long before now t was: 41m ago; empty if t is unset.
func Ago(t *timestamppb.Timestamp, now time.Time) string {
	if t == nil {
		return ""
	}
	passed := now.Sub(t.AsTime())
	if passed < time.Second {
		return "just now"
	}
	return coarse(passed) + " ago"
}

// Until writes how long after now t is: in 71h; empty if t is unset.
func Until(t *timestamppb.Timestamp, now time.Time) string {
	if t == nil {
		return ""
	}
	if left := t.AsTime().Sub(now); left > 0 {
		// What was set to one hour a moment ago is "in 1h", not "in 59m".
		return "in " + coarse(left+5*time.Second)
	}
	return "now"
}

// coarse writes a duration in its largest unit; hours up to two days, as people speak of 36 h.
func coarse(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	}
	return fmt.Sprintf("%dd", int(d.Hours()/24))
}

// Took writes a duration that was measured: 850ms, 2.8s, 41s, 3m07s, 2h05m.
func Took(d time.Duration) string {
	switch {
	case d < 995*time.Millisecond:
		return fmt.Sprintf("%dms", d.Milliseconds())
	case d < 9950*time.Millisecond:
		return fmt.Sprintf("%.1fs", d.Seconds())
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	}
	return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
}

// Clock writes how long something has been going on, in whole seconds.
func Clock(d time.Duration) string {
	if d < time.Minute {
		return fmt.Sprintf("%ds", max(0, int(d.Seconds())))
	}
	return Took(d)
}

// Hours writes a length of time that was set: 72 h, 90 min, 45 s.
func Hours(d time.Duration) string {
	switch {
	case d >= time.Hour && d%time.Hour == 0:
		return fmt.Sprintf("%d h", d/time.Hour)
	case d >= time.Minute && d%time.Minute == 0:
		return fmt.Sprintf("%d min", d/time.Minute)
	}
	return fmt.Sprintf("%d s", int(d.Seconds()))
}

// Time writes t as RFC 3339 in UTC; empty if t is unset.
func Time(t *timestamppb.Timestamp) string {
	if t == nil {
		return ""
	}
	return t.AsTime().UTC().Format(time.RFC3339)
}

// Clean takes out control characters, so that a name or a message from elsewhere cannot steer the
// terminal. Line breaks become spaces.
func Clean(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return ' '
		case unicode.IsControl(r):
			return -1
		}
		return r
	}, s)
}
