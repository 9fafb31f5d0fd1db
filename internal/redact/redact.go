// Package redact takes what is secret out of messages before they are written anywhere: every field that the proto files
// mark with debug_redact.
package redact

import (
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
)

// Message returns m without what is secret in it: m itself if nothing is, otherwise a copy.
func Message[M proto.Message](m M) M {
	if !m.ProtoReflect().IsValid() || !clearIn(m.ProtoReflect(), false) {
		return m
	}
	clean := proto.CloneOf(m)
	clearIn(clean.ProtoReflect(), true)
	return clean
}

// clearIn tells whether there is something secret in m, and clears it if it is to.
func clearIn(m protoreflect.Message, clearing bool) (found bool) {
	m.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		switch {
		case secret(field):
			found = true
			if clearing {
				m.Clear(field)
			}
		case field.IsMap():
			if field.MapValue().Message() != nil {
				value.Map().Range(func(_ protoreflect.MapKey, v protoreflect.Value) bool {
					found = clearIn(v.Message(), clearing) || found
					return true
				})
			}
		case field.Message() == nil:
		case field.IsList():
			for i := range value.List().Len() {
				found = clearIn(value.List().Get(i).Message(), clearing) || found
			}
		default:
			found = clearIn(value.Message(), clearing) || found
		}
		return true
	})
	return found
}

func secret(field protoreflect.FieldDescriptor) bool {
	options, ok := field.Options().(*descriptorpb.FieldOptions)
	return ok && options.GetDebugRedact()
}
