package transfer

import (
	"bytes"
	"math"
	"slices"
	"testing"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
)

var chunks = map[string]*agentv1.FetchResponse{
	"keep-alive": {Offset: 1 << 40},
	"plain":      {Offset: 7, Data: []byte("data"), Crc32C: math.MaxUint32},
	"compressed": {Data: bytes.Repeat([]byte("z"), maxChunk), Encoding: agentv1.Encoding_ENCODING_ZSTD, Crc32C: 1},
}

func TestChunksAreSentAsProtobuf(t *testing.T) {
	for name, chunk := range chunks {
		sent, err := sendCodec{protoCodec()}.Marshal(lentChunk{proto.CloneOf(chunk)})
		if err != nil {
			t.Fatal(name, err)
		}
		got := &agentv1.FetchResponse{}
		if err := proto.Unmarshal(sent.Materialize(), got); err != nil || !proto.Equal(got, chunk) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
		sent.Free()
	}
}

// TestChunksOfOtherVersionsAreReceived: a chunk that comes in pieces, with a field that this version does not know.
func TestChunksOfOtherVersionsAreReceived(t *testing.T) {
	codec := newReceiveCodec()
	for name, chunk := range chunks {
		newer := proto.CloneOf(chunk)
		newer.ProtoReflect().SetUnknown([]byte{0xfa, 0x01, 0x03, 'n', 'e', 'w', 0x80, 0x02, 0x05}) // fields 31 and 32
		message, err := proto.Marshal(newer)
		if err != nil {
			t.Fatal(err)
		}
		var pieces mem.BufferSlice
		for piece := range slices.Chunk(message, 16<<10) {
			pieces = append(pieces, mem.SliceBuffer(piece))
		}
		got := &agentv1.FetchResponse{Offset: 99, Encoding: 99} // of the chunk before
		if err := codec.Unmarshal(pieces, got); err != nil || !proto.Equal(got, chunk) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}

// FuzzChunk: what is decoded is what every protobuf codec reads, less what is not known.
func FuzzChunk(f *testing.F) {
	for _, chunk := range chunks {
		message, err := proto.Marshal(chunk)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(message[:min(len(message), 1<<10)])
	}
	f.Fuzz(func(t *testing.T, message []byte) {
		got, want := &agentv1.FetchResponse{}, &agentv1.FetchResponse{}
		err := newReceiveCodec().Unmarshal(mem.BufferSlice{mem.SliceBuffer(message)}, got)
		if wrong := proto.Unmarshal(message, want); (err == nil) != (wrong == nil) {
			t.Fatalf("%v, expected %v", err, wrong)
		}
		want.ProtoReflect().SetUnknown(nil)
		if err == nil && !proto.Equal(got, want) {
			t.Fatalf("%v, expected %v", got, want)
		}
	})
}
