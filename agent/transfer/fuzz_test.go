package transfer_test

import (
	"bytes"
	"context"
	"errors"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/klauspost/compress/zstd"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/requorum/requorum/agent/transfer"
	"github.com/requorum/requorum/agent/vault"
	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
)

// script is a source that sends what a fuzzer thought of, over a connection that does not exist.
type script struct {
	file    []byte
	moves   []byte
	encoder *zstd.Encoder
}

func (s *script) Invoke(context.Context, string, any, any, ...grpc.CallOption) error {
	return errors.New("not a unary service")
}

func (s *script) NewStream(ctx context.Context, _ *grpc.StreamDesc, _ string, _ ...grpc.CallOption) (grpc.ClientStream, error) {
	return &scriptStream{script: s, ctx: ctx}, nil
}

func (s *script) Close() error { return nil }

type scriptStream struct {
	*script
	ctx    context.Context
	offset int64
}

func (s *scriptStream) Header() (metadata.MD, error) { return nil, nil }
func (s *scriptStream) Trailer() metadata.MD         { return nil }
func (s *scriptStream) CloseSend() error             { return nil }
func (s *scriptStream) Context() context.Context     { return s.ctx }

func (s *scriptStream) SendMsg(m any) error {
	s.offset = m.(*agentv1.FetchRequest).GetOffset()
	return nil
}

func (s *scriptStream) RecvMsg(m any) error {
	if len(s.moves) < 2 {
		return io.EOF
	}
	kind, arg := s.moves[0], int(s.moves[1])
	s.moves = s.moves[2:]
	resp, err := s.move(kind%10, arg)
	if err != nil {
		return err
	}
	proto.Merge(m.(*agentv1.FetchResponse), resp)
	return nil
}

// move makes the next message: kind 0 and 1 are right, the others are not.
func (s *scriptStream) move(kind byte, arg int) (*agentv1.FetchResponse, error) {
	raw := s.file[min(s.offset, int64(len(s.file))):]
	raw = bytes.Clone(raw[:min(len(raw), 8*arg)])
	resp := &agentv1.FetchResponse{Offset: s.offset, Data: raw}
	switch kind {
	case 0, 1:
		s.offset += int64(len(raw))
	case 2: // another offset
		resp.Offset += int64(arg) - 128
	case 3, 4: // other bytes, with a checksum that fits them
		if len(raw) > 0 {
			raw[arg%len(raw)] ^= 1
		}
		s.offset += int64(len(raw))
	case 5: // too much
		resp.Data = append(raw, make([]byte, 1+len(s.file)*arg)...)
	case 6: // says of itself that it is compressed
		resp.Encoding = agentv1.Encoding_ENCODING_ZSTD
	case 7: // unpacks to a lot
		resp.Data = make([]byte, arg<<14)
	case 8:
		return nil, status.Error(codes.Code(arg%17), "as scripted")
	case 9:
		resp.Encoding = agentv1.Encoding(arg)
	}
	resp.Crc32C = crc32.Checksum(resp.Data, crc32.MakeTable(crc32.Castagnoli))
	if kind == 1 || kind == 4 || kind == 7 {
		resp.Data, resp.Encoding = s.encoder.EncodeAll(resp.Data, nil), agentv1.Encoding_ENCODING_ZSTD
	}
	if kind == 9 {
		resp.Crc32C ^= uint32(arg)
	}
	return resp, nil
}

// FuzzFetch: whatever sources send, a file that is accepted is the right one.
func FuzzFetch(f *testing.F) {
	f.Add([]byte{0, 255, 0, 255})
	f.Add([]byte{1, 100, 0, 0, 1, 255, 0, 255})
	f.Add([]byte{3, 100, 0, 255, 0, 255, 0, 255, 1, 255})
	f.Add([]byte{4, 100, 0, 255, 0, 255, 4, 255, 1, 255})
	f.Add([]byte{2, 7, 0, 20, 5, 1, 0, 20, 6, 9, 0, 20, 7, 255, 0, 20, 8, 5, 0, 20, 9, 1, 0, 255})
	encoder, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() {
		if err := encoder.Close(); err != nil {
			f.Error(err)
		}
	})
	file := random(3000)
	m := describe("s", file)
	f.Fuzz(func(t *testing.T, moves []byte) {
		v, err := vault.Open(t.TempDir(), hclog.NewNullLogger())
		if err != nil {
			t.Fatal(err)
		}
		source := &script{file: file, moves: moves, encoder: encoder}
		dial := func(context.Context, *agentv1.Source) (grpc.ClientConnInterface, io.Closer, error) {
			return source, source, nil
		}
		fetcher := transfer.NewFetcher(v, dial, hclog.NewNullLogger(), transfer.Options{
			ProgressTimeout: 20 * time.Millisecond, MinPause: time.Microsecond, MaxPause: time.Microsecond,
		})
		spec := &agentv1.FetchCopy{Manifest: m, Sources: []*agentv1.Source{{Node: "a"}, {Node: "b"}}}
		_, fetchErr := fetcher.Fetch(t.Context(), spec, nil)
		got, err := os.ReadFile(filepath.Join(v.Dir(), "s.db"))
		if fetchErr == nil && (err != nil || !bytes.Equal(got, file)) {
			t.Fatalf("accepted %d bytes, %v", len(got), err)
		}
		if fetchErr != nil && err == nil {
			t.Fatalf("a complete file is there although: %v", fetchErr)
		}
	})
}
