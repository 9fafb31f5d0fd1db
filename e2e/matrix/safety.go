package main

import (
	"go.etcd.io/bbolt"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"
)

// contents reads what a snapshot holds, from the first node that has it.
func (a *attempt) contents(snapshot string) map[string]string {
	values := map[string]string{}
	for _, n := range a.NodeNames() {
		db, err := bbolt.Open(a.Copy(n, snapshot), 0o600, &bbolt.Options{ReadOnly: true})
		if err != nil {
			continue
		}
		err = db.View(func(tx *bbolt.Tx) error {
			return tx.Bucket([]byte("key")).ForEach(func(_, data []byte) error { // in the order of revisions
				kv := new(mvccpb.KeyValue)
				err := proto.Unmarshal(data, kv)
				values[string(kv.GetKey())] = string(kv.GetValue())
				return err
			})
		})
		if err != nil {
			a.note.Errorf("read snapshot %s on %s: %v", snapshot, n, err)
		}
		if err := db.Close(); err != nil {
			a.note.Error(err)
		}
		return values
	}
	a.note.Errorf("no node has the safety snapshot %q", snapshot)
	return values
}
