package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Document is one of several documents of a YAML file.
type Document[T any] struct {
	Value T
	file  string
	root  *yaml.Node
}

// Documents reads all YAML documents of a file, or of whatever name says that data is. Empty ones are left out. The
// error joins *Error, one for each thing wrong.
func Documents[T any](name string, data []byte) ([]Document[T], error) {
	var (
		all      []Document[T]
		problems []error
	)
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	for {
		var node yaml.Node
		err := decoder.Decode(&node)
		if errors.Is(err, io.EOF) {
			return all, errors.Join(problems...)
		}
		if err != nil { // what follows cannot be read either
			return nil, errors.Join(append(problems, located(name, err))...)
		}
		if node.Kind == 0 || len(node.Content) == 1 && node.Content[0].Tag == "!!null" {
			continue
		}
		d := Document[T]{file: name, root: &node}
		if wrong := checkKeys(name, &node, &d.Value); len(wrong) > 0 {
			problems = append(problems, wrong...)
			continue
		}
		if err := node.Decode(&d.Value); err != nil {
			problems = append(problems, located(name, err))
			continue
		}
		all = append(all, d)
	}
}

// Wrong returns an *Error about a field of the document, whose name has dots between levels. It names the line of the
// field, or of the nearest level that is there.
func (d Document[T]) Wrong(field, format string, args ...any) error {
	message := fmt.Sprintf(format, args...)
	if field != "" {
		message = field + ": " + message
	}
	return &Error{File: d.file, Line: d.line(field), Message: message}
}

// Where is the place of the document, as file:line.
func (d Document[T]) Where() string { return fmt.Sprintf("%s:%d", d.file, d.line("")) }

func (d Document[T]) line(field string) int {
	at := d.root.Content[0]
	line := at.Line
	if field == "" {
		return line
	}
	for _, key := range strings.Split(field, ".") {
		name, value := entry(at, key)
		if name == nil {
			return line
		}
		at, line = value, name.Line
	}
	return line
}

// entry returns the key and the value of a mapping's entry, nil if there is none.
func entry(mapping *yaml.Node, key string) (name, value *yaml.Node) {
	if mapping.Kind != yaml.MappingNode {
		return nil, nil
	}
	for i := 0; i+1 < len(mapping.Content); i += 2 {
		if mapping.Content[i].Value == key {
			return mapping.Content[i], mapping.Content[i+1]
		}
	}
	return nil, nil
}

// Set parses the value of one node, for types that unmarshal themselves. An error is given the node's line.
func Set(n *yaml.Node, parse func(string) error) error { return set(n, parse) }
