package transfer_test

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/requorum/requorum/agent/transfer"
	"github.com/requorum/requorum/agent/vault"
	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
)

// sink is a receiver over a connection that does not exist. It goes away after some messages.
type sink struct {
	ctx   context.Context
	stays int
	got   []*agentv1.FetchResponse
}

func (s *sink) SetHeader(metadata.MD) error  { return nil }
func (s *sink) SendHeader(metadata.MD) error { return nil }
func (s *sink) SetTrailer(metadata.MD)       {}
func (s *sink) Context() context.Context     { return s.ctx }
func (s *sink) RecvMsg(any) error            { return nil }

func (s *sink) SendMsg(m any) error {
	return s.Send(m.(proto.Message).ProtoReflect().Interface().(*agentv1.FetchResponse))
}

func (s *sink) Send(resp *agentv1.FetchResponse) error {
	if s.stays--; s.stays < 0 {
		return status.Error(codes.Unavailable, "gone")
	}
	resp.Data = bytes.Clone(resp.GetData())
	s.got = append(s.got, resp)
	return nil
}

// FuzzServe: whatever a receiver asks for, it is sent bytes of the one file that it may read, or refused.
func FuzzServe(f *testing.F) {
	file := random(3000)
	m := describe("s", file)
	v, err := vault.Open(f.TempDir(), hclog.NewNullLogger())
	if err != nil {
		f.Fatal(err)
	}
	for _, name := range []string{"s", "secret"} {
		m := describe(name, file)
		w, err := v.Receive(m)
		if err == nil {
			_, err = w.Write(file)
		}
		if err == nil {
			_, err = w.Commit()
		}
		if err != nil {
			f.Fatal(err)
		}
	}
	grants := &transfer.Grants{}
	f.Cleanup(grants.Allow("s", "b"))
	f.Add("s", m.GetSha256(), int64(3000), int64(0), true, "b", "prod", 9)
	f.Add("s", m.GetSha256(), int64(3000), int64(2999), false, "b", "prod", 0)
	f.Add("secret", m.GetSha256(), int64(3000), int64(0), false, "b", "prod", 9)
	f.Add("../s", "", int64(-1), int64(1)<<62, false, "c", "", -1)
	f.Fuzz(func(t *testing.T, name, sha string, size, offset int64, zstd bool, node, cluster string, stays int) {
		server := transfer.NewServer(v, grants, hclog.NewNullLogger(), transfer.WithPeer("prod", func(context.Context) (transfer.Peer, error) {
			return transfer.Peer{Cluster: cluster, Node: node}, nil
		}))
		to := &sink{ctx: t.Context(), stays: stays}
		err := server.Fetch(&agentv1.FetchRequest{Name: name, Sha256: sha, Size: size, Offset: offset, AcceptZstd: zstd}, to)
		allowed := name == "s" && cluster == "prod" && node == "b" && strings.EqualFold(sha, m.GetSha256()) && size == m.GetSize()
		if len(to.got) > 0 && !allowed {
			t.Fatalf("sent %d messages of %q to %s of %s", len(to.got), name, node, cluster)
		}
		if err != nil && status.Code(err) == codes.Internal {
			t.Fatalf("refused as an error of its own: %v", err)
		}
		for _, resp := range to.got {
			if resp.GetEncoding() != agentv1.Encoding_ENCODING_UNSPECIFIED || len(resp.GetData()) == 0 {
				continue
			}
			if from := resp.GetOffset(); from < offset || !bytes.HasPrefix(file[from:], resp.GetData()) {
				t.Fatalf("wrong bytes at %d", from)
			}
		}
	})
}
