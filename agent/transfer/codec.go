package transfer

import (
	"fmt"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
)

// Fields of a FetchResponse.
const (
	offsetField   = protowire.Number(1)
	dataField     = protowire.Number(2)
	encodingField = protowire.Number(3)
	crcField      = protowire.Number(4)
)

// ServerCodec makes a gRPC server send a Server's chunks without copying them. What it sends is what every protobuf
// codec reads.
func ServerCodec() grpc.ServerOption { return grpc.ForceServerCodecV2(sendCodec{protoCodec()}) }

func protoCodec() encoding.CodecV2 { return encoding.GetCodecV2(proto.Name) }

// lentChunk is a chunk whose data is of chunkBuffers. Who sends it does not touch the data any more.
type lentChunk struct{ *agentv1.FetchResponse }

// sendCodec gives the data of a lentChunk back to chunkBuffers when it is sent.
type sendCodec struct{ encoding.CodecV2 }

func (c sendCodec) Marshal(v any) (mem.BufferSlice, error) {
	chunk, ok := v.(lentChunk)
	if !ok {
		return c.CodecV2.Marshal(v)
	}
	data := chunk.GetData()
	return mem.BufferSlice{mem.SliceBuffer(appendHead(nil, chunk.FetchResponse)), mem.NewBuffer(&data, chunkBuffers)}, nil
}

// appendHead encodes a chunk up to its data.
func appendHead(b []byte, chunk *agentv1.FetchResponse) []byte {
	for _, field := range []struct {
		number protowire.Number
		value  uint64
	}{
		{offsetField, uint64(chunk.GetOffset())}, {encodingField, uint64(chunk.GetEncoding())}, {crcField, uint64(chunk.GetCrc32C())},
	} {
		b = protowire.AppendTag(b, field.number, protowire.VarintType)
		b = protowire.AppendVarint(b, field.value)
	}
	b = protowire.AppendTag(b, dataField, protowire.BytesType)
	return protowire.AppendVarint(b, uint64(len(chunk.GetData())))
}

// receiveCodec decodes the chunks of one stream. The data of a chunk stays valid until the next one is received.
type receiveCodec struct {
	encoding.CodecV2
	buf []byte
}

func newReceiveCodec() *receiveCodec { return &receiveCodec{CodecV2: protoCodec()} }

func (c *receiveCodec) Unmarshal(message mem.BufferSlice, v any) error {
	chunk, ok := v.(*agentv1.FetchResponse)
	if !ok {
		return c.CodecV2.Unmarshal(message, v)
	}
	size := message.Len()
	if cap(c.buf) < size {
		c.buf = make([]byte, max(size, chunkBuffer))
	}
	message.CopyTo(c.buf[:size])
	return decodeChunk(c.buf[:size], chunk)
}

// decodeChunk decodes a chunk, whose data is then a part of b. Fields that are not known are left out.
func decodeChunk(b []byte, chunk *agentv1.FetchResponse) error {
	chunk.Reset()
	for len(b) > 0 {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return fmt.Errorf("chunk: %w", protowire.ParseError(n))
		}
		b = b[n:]
		switch {
		case number == dataField && kind == protowire.BytesType:
			chunk.Data, n = protowire.ConsumeBytes(b)
		case kind == protowire.VarintType:
			var value uint64
			value, n = protowire.ConsumeVarint(b)
			setVarint(chunk, number, value)
		default:
			n = protowire.ConsumeFieldValue(number, kind, b)
		}
		if n < 0 {
			return fmt.Errorf("chunk: %w", protowire.ParseError(n))
		}
		b = b[n:]
	}
	return nil
}

func setVarint(chunk *agentv1.FetchResponse, number protowire.Number, value uint64) {
	switch number {
	case offsetField:
		chunk.Offset = int64(value)
	case encodingField:
		chunk.Encoding = agentv1.Encoding(value)
	case crcField:
		chunk.Crc32C = uint32(value)
	}
}

// chunkBuffer is the size of a buffer for a message with a chunk, in bytes.
const chunkBuffer = maxChunk + 64

// chunkBuffers are buffers that a chunk fits into. What is in them is not cleared.
var chunkBuffers = &bufferPool{}

// bufferPool is a mem.BufferPool of buffers of chunkBuffer bytes.
type bufferPool struct{ pool sync.Pool }

// Get returns a buffer of length bytes.
func (p *bufferPool) Get(length int) *[]byte {
	if b, ok := p.pool.Get().(*[]byte); ok && length <= cap(*b) {
		*b = (*b)[:length]
		return b
	}
	b := make([]byte, length, max(length, chunkBuffer))
	return &b
}

// Put takes a buffer back; one that is too small is left to the garbage collector.
func (p *bufferPool) Put(b *[]byte) {
	if cap(*b) >= chunkBuffer {
		p.pool.Put(b)
	}
}
