package config

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// keyCheck walks a document beside the type it will be decoded into and collects the keys that do not
// belong there. yaml's own check names neither file nor the key that was probably meant.
type keyCheck struct {
	path     string
	problems []error
}

var unmarshaler = reflect.TypeFor[yaml.Unmarshaler]()

func checkKeys(path string, document *yaml.Node, into any) []error {
	c := &keyCheck{path: path}
	for _, root := range document.Content {
		c.value(root, reflect.TypeOf(into))
	}
	return c.problems
}

func (c *keyCheck) value(n *yaml.Node, t reflect.Type) {
	if t.Implements(unmarshaler) || reflect.PointerTo(t).Implements(unmarshaler) {
		return
	}
	switch {
	case t.Kind() == reflect.Pointer:
		c.value(n, t.Elem())
	case n.Kind == yaml.MappingNode && t.Kind() == reflect.Struct:
		c.mapping(n, fields(t), nil)
	case n.Kind == yaml.MappingNode && t.Kind() == reflect.Map:
		c.mapping(n, nil, t.Elem())
	case n.Kind == yaml.SequenceNode && t.Kind() == reflect.Slice:
		for _, item := range n.Content {
			c.value(item, t.Elem())
		}
	}
}

// mapping checks a mapping's keys against known, or takes any key where known is nil, with a value of type free.
func (c *keyCheck) mapping(n *yaml.Node, known map[string]reflect.Type, free reflect.Type) {
	seen := make(map[string]int)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if first, twice := seen[key.Value]; twice {
			c.add(key, "%s is given twice, first in line %d", key.Value, first)
			continue
		}
		seen[key.Value] = key.Line
		t := free
		if known != nil {
			t = known[key.Value]
		}
		if t == nil {
			c.add(key, "unknown key %s%s", key.Value, hint(key.Value, known))
			continue
		}
		c.value(value, t)
	}
}

func (c *keyCheck) add(n *yaml.Node, format string, args ...any) {
	c.problems = append(c.problems, &Error{File: c.path, Line: n.Line, Message: fmt.Sprintf(format, args...)})
}

// fields returns the keys that yaml accepts for a struct, with the type behind each.
func fields(t reflect.Type) map[string]reflect.Type {
	known := make(map[string]reflect.Type)
	for i := range t.NumField() {
		f := t.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		switch {
		case !f.IsExported() && !f.Anonymous, name == "-":
		case strings.Contains(options, "inline"):
			inner := f.Type
			for inner.Kind() == reflect.Pointer {
				inner = inner.Elem()
			}
			maps.Copy(known, fields(inner))
		case name == "":
			known[strings.ToLower(f.Name)] = f.Type
		default:
			known[name] = f.Type
		}
	}
	return known
}

// hint names the known key nearest to the unknown one, or else all of them.
func hint(key string, known map[string]reflect.Type) string {
	keys := slices.Sorted(maps.Keys(known))
	best, distance := "", 1+max(2, len(key)/3)
	for _, k := range keys {
		if d := editDistance(strings.ToLower(key), strings.ToLower(k)); d < distance {
			best, distance = k, d
		}
	}
	if best != "" {
		return fmt.Sprintf("; did you mean %s?", best)
	}
	return "; known here: " + strings.Join(keys, ", ")
}

// editDistance is the Levenshtein distance of two strings in bytes.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}
