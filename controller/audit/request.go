package audit

import (
	"bytes"
	"fmt"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/internal/redact"
)

// longestRequest is how many bytes of JSON an entry holds of a request.
const longestRequest = 64 << 10

// setRequest puts a request without its secrets into an entry.
func setRequest(e *requorumv1.AuditEntry, request any) error {
	m, ok := request.(proto.Message)
	if !ok {
		return fmt.Errorf("request of %s is a %T", e.GetMethod(), request)
	}
	m, e.Redacted = redact.Fields(m)
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
