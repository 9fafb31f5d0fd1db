package transfer

import (
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/klauspost/compress/zstd"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
)

const (
	// maxChunk is the most of the file that one message carries, in bytes; far below gRPC's limit.
	maxChunk = 512 << 10
	// minChunk is the least, where the link is so slow that a full one would take longer than patience lasts.
	minChunk = 16 << 10
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// errBadChunk says that a source sent something that is not the next part of the file.
var errBadChunk = errors.New("bad chunk")

// chunkEncoder makes messages of parts of a file. It takes over the parts, which are of chunkBuffers, and so does
// whoever sends the messages.
type chunkEncoder struct {
	zstd *zstd.Encoder
}

// plain returns the message for raw.
func (e *chunkEncoder) plain(offset int64, raw []byte) *agentv1.FetchResponse {
	return &agentv1.FetchResponse{Offset: offset, Data: raw, Crc32C: crc32.Checksum(raw, castagnoli)}
}

// compressed returns the message for raw compressed.
func (e *chunkEncoder) compressed(offset int64, raw []byte) (*agentv1.FetchResponse, error) {
	if e.zstd == nil {
		z, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1),
			zstd.WithWindowSize(maxChunk), zstd.WithEncoderCRC(false))
		if err != nil {
			return nil, fmt.Errorf("start zstd: %w", err)
		}
		e.zstd = z
	}
	defer chunkBuffers.Put(&raw)
	return &agentv1.FetchResponse{
		Offset: offset, Data: e.zstd.EncodeAll(raw, *chunkBuffers.Get(0)), Encoding: agentv1.Encoding_ENCODING_ZSTD, Crc32C: crc32.Checksum(raw, castagnoli),
	}, nil
}

func (e *chunkEncoder) close() error {
	if e.zstd == nil {
		return nil
	}
	return e.zstd.Close()
}

// chunkDecoder checks messages and takes the parts of the file out of them.
type chunkDecoder struct {
	zstd *zstd.Decoder
	buf  []byte
}

func newChunkDecoder() (*chunkDecoder, error) {
	// Whatever a frame claims, no more than the buffer is filled.
	z, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxChunk),
		zstd.WithDecoderMaxWindow(maxChunk), zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		return nil, fmt.Errorf("start zstd: %w", err)
	}
	return &chunkDecoder{zstd: z, buf: make([]byte, 0, maxChunk)}, nil
}

// decode returns the part of the file that a message carries, which must begin at offset and not go beyond
// size; nil for a keep-alive. It stays valid until the next call. Anything else is an errBadChunk.
func (d *chunkDecoder) decode(resp *agentv1.FetchResponse, offset, size int64) ([]byte, error) {
	if len(resp.GetData()) == 0 {
		return nil, nil
	}
	if resp.GetOffset() != offset {
		return nil, fmt.Errorf("%w: offset %d instead of %d", errBadChunk, resp.GetOffset(), offset)
	}
	raw := resp.GetData()
	switch resp.GetEncoding() {
	case agentv1.Encoding_ENCODING_UNSPECIFIED:
	case agentv1.Encoding_ENCODING_ZSTD:
		var err error
		if raw, err = d.zstd.DecodeAll(raw, d.buf[:0]); err != nil {
			return nil, fmt.Errorf("%w at offset %d: %w", errBadChunk, offset, err)
		}
	default:
		return nil, fmt.Errorf("%w at offset %d: encoding %v is not known", errBadChunk, offset, resp.GetEncoding())
	}
	switch {
	case len(raw) > maxChunk || int64(len(raw)) > size-offset:
		return nil, fmt.Errorf("%w at offset %d: %d bytes are too many", errBadChunk, offset, len(raw))
	case len(raw) == 0:
		return nil, fmt.Errorf("%w at offset %d: a compressed chunk of nothing", errBadChunk, offset)
	case crc32.Checksum(raw, castagnoli) != resp.GetCrc32C():
		return nil, fmt.Errorf("%w at offset %d: CRC-32C does not fit", errBadChunk, offset)
	}
	return raw, nil
}

func (d *chunkDecoder) close() { d.zstd.Close() }
