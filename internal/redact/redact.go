// Package redact takes what is secret out of messages before they are written anywhere: every field that the proto files
// mark with debug_redact.
package redact

import (
	"fmt"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
)

// Message returns m without what is secret in it: m itself if nothing is, otherwise a copy.
func Message[M proto.Message](m M) M {
	clean, _ := Fields(m)
	return clean
}

// Fields is Message that also returns the paths of the fields that were taken out.
func Fields[M proto.Message](m M) (clean M, paths []string) {
	if !m.ProtoReflect().IsValid() {
		return m, nil
	}
	clean = proto.CloneOf(m)
	if paths = clearIn(clean.ProtoReflect(), ""); len(paths) == 0 {
		return m, nil
	}
	return clean, paths
}

// Secret tells whether a field is marked in its .proto file as one that is never shown.
func Secret(field protoreflect.FieldDescriptor) bool {
	options, ok := field.Options().(*descriptorpb.FieldOptions)
	return ok && options.GetDebugRedact()
}

// clearIn clears the secret fields of a message, and of those within, and returns their paths.
func clearIn(m protoreflect.Message, path string) []string {
	var cleared []string
	m.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		name := path + string(field.Name())
		switch {
		case Secret(field):
			m.Clear(field)
			cleared = append(cleared, name)
		case field.IsMap() && field.MapValue().Message() != nil:
			value.Map().Range(func(key protoreflect.MapKey, v protoreflect.Value) bool {
				cleared = append(cleared, clearIn(v.Message(), fmt.Sprintf("%s[%s].", name, key))...)
				return true
			})
		case field.IsMap() || field.Message() == nil:
		case field.IsList():
			for i := range value.List().Len() {
				cleared = append(cleared, clearIn(value.List().Get(i).Message(), fmt.Sprintf("%s[%d].", name, i))...)
			}
		default:
			cleared = append(cleared, clearIn(value.Message(), name+".")...)
		}
		return true
	})
	return cleared
}
