package audit

import (
	"bytes"
	"fmt"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/known/structpb"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"
)

// longestRequest is how many bytes of JSON an entry holds of a request.
const longestRequest = 64 << 10

// setRequest puts a request without its secrets into an entry.
func setRequest(e *requorumv1.AuditEntry, request any) error {
	m, ok := request.(proto.Message)
	if !ok {
		return fmt.Errorf("request of %s is a %T", e.GetMethod(), request)
	}
	m = proto.Clone(m)
	e.Redacted = redact(m.ProtoReflect(), "")
	data, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
	if err != nil {
		return fmt.Errorf("request of %s: %w", e.GetMethod(), err)
	}
	if len(data) > longestRequest {
		e.LeftOutBytes = int64(len(data))
		return nil
	}
	e.Request = new(structpb.Struct)
	return protojson.Unmarshal(bytes.TrimSpace(data), e.Request)
}

// Secret tells whether a field is marked in its .proto file as one that is never shown.
func Secret(field protoreflect.FieldDescriptor) bool {
	options, ok := field.Options().(*descriptorpb.FieldOptions)
	return ok && options.GetDebugRedact()
}

// redact clears the secret fields of a message, and of those within, and returns their paths.
func redact(m protoreflect.Message, path string) []string {
	var cleared []string
	m.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		name := path + string(field.Name())
		switch {
		case Secret(field):
			m.Clear(field)
			cleared = append(cleared, name)
		case field.IsMap() && field.MapValue().Message() != nil:
			value.Map().Range(func(key protoreflect.MapKey, v protoreflect.Value) bool {
				cleared = append(cleared, redact(v.Message(), fmt.Sprintf("%s[%s].", name, key))...)
				return true
			})
		case field.IsMap() || field.Message() == nil:
		case field.IsList():
			for i := range value.List().Len() {
				cleared = append(cleared, redact(value.List().Get(i).Message(), fmt.Sprintf("%s[%d].", name, i))...)
			}
		default:
			cleared = append(cleared, redact(value.Message(), name+".")...)
		}
		return true
	})
	return cleared
}
