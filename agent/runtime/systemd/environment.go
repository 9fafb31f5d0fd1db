package systemd

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// environmentFile is one EnvironmentFile= of a unit.
type environmentFile struct {
	path     string // may be a pattern
	optional bool   // it need not be there
}

// environment returns what systemd would start the unit's program with, as NAME=value, but for what systemd adds itself.
// Files come after Environment=, and UnsetEnvironment= last.
func (u *unit) environment() ([]string, error) {
	values := map[string]string{}
	set := func(assignments []string) {
		for _, a := range assignments {
			name, value, _ := strings.Cut(a, "=")
			values[name] = value
		}
	}
	set(u.assignments)
	for _, f := range u.environmentFiles {
		assignments, err := f.read()
		if err != nil {
			return nil, fmt.Errorf("EnvironmentFile of %s: %w", u.name, err)
		}
		set(assignments)
	}
	for _, unset := range u.unset {
		name, value, exact := strings.Cut(unset, "=")
		if !exact || values[name] == value {
			delete(values, name)
		}
	}
	env := make([]string, 0, len(values))
	for name, value := range values {
		env = append(env, name+"="+value)
	}
	slices.Sort(env)
	return env, nil
}

func (f environmentFile) read() ([]string, error) {
	paths, err := filepath.Glob(f.path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.path, err)
	}
	if len(paths) == 0 && !f.optional {
		return nil, &fs.PathError{Op: "open", Path: f.path, Err: fs.ErrNotExist}
	}
	var all []string
	for _, p := range paths {
		text, err := os.ReadFile(p)
		if f.optional && errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		all = append(all, parseEnvironmentFile(string(text))...)
	}
	return all, nil
}

// parseEnvironmentFile reads assignments as systemd does (systemd.exec(5), EnvironmentFile=): like a shell, but without
// any expansion. Lines that are no assignment are passed over.
func parseEnvironmentFile(text string) []string {
	var found []string
	for text != "" {
		text = strings.TrimLeft(text, " \t\r\n")
		if strings.HasPrefix(text, "#") || strings.HasPrefix(text, ";") {
			text = afterComment(text)
			continue
		}
		end := strings.IndexAny(text, "=\n")
		if end < 0 {
			break
		}
		if text[end] == '\n' {
			text = text[end+1:]
			continue
		}
		name := strings.TrimRight(text[:end], " \t")
		var value string
		value, text = fileValue(text[end+1:])
		if variableName.MatchString(name) {
			found = append(found, name+"="+value)
		}
	}
	return found
}

var variableName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// afterComment returns what follows a comment; a backslash carries it on to the next line.
func afterComment(text string) string {
	for i := 0; i < len(text); i++ {
		switch text[i] {
		case '\\':
			i++
		case '\n':
			return text[i+1:]
		}
	}
	return ""
}

// fileValue reads a value to the end of its line, which may be behind a quoted line break, and returns what follows.
func fileValue(text string) (value, rest string) {
	var b strings.Builder
	kept := 0 // length up to which trailing blanks belong to the value
	text = strings.TrimLeft(text, " \t")
	for text != "" {
		c := text[0]
		text = text[1:]
		switch {
		case c == '\n':
			return b.String()[:max(kept, len(strings.TrimRight(b.String(), " \t\r")))], text
		case c == '\\' && text != "":
			if text[0] != '\n' {
				b.WriteByte(text[0])
				kept = b.Len()
			}
			text = text[1:]
		case c == '\'' || c == '"':
			text = quoted(&b, text, c)
			kept = b.Len()
		default:
			b.WriteByte(c)
		}
	}
	return b.String()[:max(kept, len(strings.TrimRight(b.String(), " \t\r")))], ""
}

// quoted appends a quoted part to b and returns what follows the closing quote. In double quotes a backslash protects
// what a shell would take for something else, and a line break behind one is dropped.
func quoted(b *strings.Builder, text string, quote byte) string {
	for i := 0; i < len(text); i++ {
		c := text[i]
		if c == quote {
			return text[i+1:]
		}
		if c == '\\' && quote == '"' && i+1 < len(text) {
			i++
			switch {
			case text[i] == '\n':
				continue
			case !strings.ContainsRune("\"\\`$", rune(text[i])):
				b.WriteByte('\\')
			}
			c = text[i]
		}
		b.WriteByte(c)
	}
	return ""
}

var variable = regexp.MustCompile(`\$\$|\$\{[A-Za-z0-9_]+\}`)

// expand puts variables into a command line (systemd.service(5), "Command lines"): ${NAME} anywhere as it is, $NAME that is an argument
// of its own split at blanks into arguments, $$ a dollar sign. What is not set is empty.
func expand(args, env []string) []string {
	values := map[string]string{}
	for _, kv := range env {
		name, value, _ := strings.Cut(kv, "=")
		values[name] = value
	}
	var expanded []string
	for _, arg := range args {
		if name, ok := strings.CutPrefix(arg, "$"); ok && variableName.MatchString(name) {
			expanded = append(expanded, splitWords(values[name])...)
			continue
		}
		expanded = append(expanded, variable.ReplaceAllStringFunc(arg, func(v string) string {
			if v == "$$" {
				return "$"
			}
			return values[v[2:len(v)-1]]
		}))
	}
	return expanded
}

// splitWords splits at blanks that are not quoted, and takes the quotes away.
func splitWords(text string) []string {
	var words []string
	var word strings.Builder
	within, begun := byte(0), false
	flush := func() {
		if begun {
			words = append(words, word.String())
		}
		word.Reset()
		begun = false
	}
	for i := 0; i < len(text); i++ {
		c := text[i]
		switch {
		case within == 0 && strings.ContainsRune(" \t\r\n", rune(c)):
			flush()
			continue
		case within == 0 && (c == '\'' || c == '"'):
			within = c
		case c == within:
			within = 0
		case c == '\\' && within != '\'' && i+1 < len(text):
			i++
			word.WriteByte(text[i])
		default:
			word.WriteByte(c)
		}
		begun = true
	}
	flush()
	return words
}
