// Package output writes what the operator's commands print: tables for people, JSON and YAML for
// programs, and sizes, revisions and times in the form people read.
package output

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"regexp"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// Format is how a command prints its answer.
type Format string

// The formats.
const (
	Table Format = "table" // for people
	JSON  Format = "json"  // the API's message, indented; one line each in a stream
	YAML  Format = "yaml"  // the same as YAML; one document each in a stream
)

// String returns the format's name.
func (f *Format) String() string { return string(*f) }

// Set takes a format's name; it makes *Format usable as a flag.
func (f *Format) Set(s string) error {
	switch Format(s) {
	case Table, JSON, YAML:
		*f = Format(s)
		return nil
	}
	return fmt.Errorf("%q is unknown; use table, json or yaml", s)
}

// Type names the kind of value in a flag's help.
func (f *Format) Type() string { return "table|json|yaml" }

// Message writes one of the API's messages with the field names of its .proto file. What it lists is there even if it is
// empty, so that programs can go through it. The format must not be Table.
func Message(w io.Writer, f Format, m proto.Message) error {
	raw, err := marshal(m)
	if err != nil {
		return err
	}
	return writeIn(w, f, withEmptyLists(raw, m.ProtoReflect()))
}

// withEmptyLists adds the lists of a message that have nothing in them, which its JSON leaves out.
func withEmptyLists(raw []byte, m protoreflect.Message) []byte {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		field := fields.Get(i)
		if !field.IsList() || m.Has(field) {
			continue
		}
		raw = bytes.TrimSuffix(raw, []byte("}"))
		if len(raw) > len("{") {
			raw = append(raw, ',')
		}
		raw = fmt.Appendf(raw, "%q:[]}", field.TextName())
	}
	return raw
}

// Value writes what is no message of the API's, by the names that it has in JSON. The format must not be Table.
func Value(w io.Writer, f Format, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return writeIn(w, f, raw)
}

func writeIn(w io.Writer, f Format, raw []byte) error {
	if f == YAML {
		return writeYAML(w, raw)
	}
	var indented bytes.Buffer
	if err := json.Indent(&indented, raw, "", "  "); err != nil {
		return err
	}
	indented.WriteByte('\n')
	_, err := w.Write(indented.Bytes())
	return err
}

// StreamMessage writes one message of a stream: a line of JSON, or a document of YAML.
func StreamMessage(w io.Writer, f Format, m proto.Message) error {
	raw, err := marshal(m)
	if err != nil {
		return err
	}
	if f == YAML {
		if _, err := io.WriteString(w, "---\n"); err != nil {
			return err
		}
		return writeYAML(w, raw)
	}
	_, err = w.Write(append(raw, '\n'))
	return err
}

// marshal returns compact JSON: protojson varies its white space on purpose.
func marshal(m proto.Message) ([]byte, error) {
	raw, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("write %s as JSON: %w", m.ProtoReflect().Descriptor().Name(), err)
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, raw); err != nil {
		return nil, err
	}
	return compact.Bytes(), nil
}

// writeYAML writes JSON, which is YAML in flow style, in block style with its order kept.
func writeYAML(w io.Writer, raw []byte) error {
	var document yaml.Node
	if err := yaml.Unmarshal(raw, &document); err != nil {
		return err
	}
	block(&document)
	encoder := yaml.NewEncoder(w)
	encoder.SetIndent(2)
	if err := encoder.Encode(&document); err != nil {
		return err
	}
	return encoder.Close()
}

// booleans are the words that YAML 1.1, which many programs still read, takes for true and false.
var booleans = regexp.MustCompile(`^(?i:y|n|yes|no|on|off)$`)

func block(n *yaml.Node) {
	n.Style = 0
	if n.Kind == yaml.ScalarNode && booleans.MatchString(n.Value) {
		n.Style = yaml.DoubleQuotedStyle
	}
	for _, child := range n.Content {
		block(child)
	}
}
