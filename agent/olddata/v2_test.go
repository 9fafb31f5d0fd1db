package olddata

import (
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// bareV2 is a request as etcd 3.4 writes it to its log: every field, also the empty ones (etcdserverpb.Request).
func bareV2(method, path, value string) []byte {
	b := protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), 7)
	for number, text := range map[protowire.Number]string{2: method, 3: path, 4: value, 6: ""} {
		b = protowire.AppendString(protowire.AppendTag(b, number, protowire.BytesType), text)
	}
	return protowire.AppendVarint(protowire.AppendTag(b, 5, protowire.VarintType), 0)
}

func TestRequestsOfTheOldAPIChangeNothing(t *testing.T) {
	for name, data := range map[string][]byte{
		"a member's name":            bareV2("PUT", "/0/members/8e9e05c52164694d/attributes", `{"name":"etcd-1"}`),
		"what reads as an empty put": bareV2("SYNC", "", ""),
	} {
		if changes, err := changesData(entry(data)); changes || err != nil {
			t.Errorf("%s: changes data %v, %v", name, changes, err)
		}
	}
	put, err := proto.Marshal(&pb.InternalRaftRequest{ID: 1, Put: &pb.PutRequest{Key: []byte("PUT")}})
	if err != nil {
		t.Fatal(err)
	}
	if changes, err := changesData(entry(put)); !changes || err != nil {
		t.Errorf("a put: changes data %v, %v", changes, err)
	}
	if _, err := changesData(entry([]byte("\x12\x09/garbage/\xff"))); err == nil {
		t.Error("garbage changes nothing")
	}
}

func entry(data []byte) *raftpb.Entry {
	return &raftpb.Entry{Type: raftpb.EntryNormal.Enum(), Index: proto.Uint64(5), Term: proto.Uint64(2), Data: data}
}
