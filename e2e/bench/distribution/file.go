package distribution

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"

	bolt "go.etcd.io/bbolt"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/server/v3/storage/schema"
	"google.golang.org/protobuf/proto"
)

const (
	valueSize = 12190 // two of them, with their keys and bbolt's headers, fill six pages and leave nothing that compresses
	perTx     = 1000  // keys that are written in one transaction
)

// WriteFile writes an etcd database of about size bytes. Its values are noise, which doesn't compress, or
// text, which does.
func WriteFile(path string, size int64, compressible bool) error {
	db, err := bolt.Open(path, 0o600, &bolt.Options{NoSync: true, NoGrowSync: true, NoFreelistSync: true, FreelistType: bolt.FreelistMapType})
	if err != nil {
		return err
	}
	value := noise
	if compressible {
		value = text
	}
	keys := int(size / (3 * 4096))
	for first := 0; err == nil && first < max(keys, 1); first += perTx {
		err = db.Update(func(tx *bolt.Tx) error { return put(tx, first, min(first+perTx, keys), value) })
	}
	if err == nil {
		err = db.Sync()
	}
	return errors.Join(err, db.Close())
}

// put writes keys as etcd's store does: by the revision that made them.
func put(tx *bolt.Tx, from, to int, value func(i int) []byte) error {
	if _, err := tx.CreateBucketIfNotExists(schema.Meta.Name()); err != nil {
		return err
	}
	keys, err := tx.CreateBucketIfNotExists(schema.Key.Name())
	if err != nil {
		return err
	}
	keys.FillPercent = 1
	for i := from; i < to; i++ {
		revision := int64(i + 2) // an empty store is at revision 1
		kv, err := proto.Marshal(&mvccpb.KeyValue{
			Key: fmt.Appendf(nil, "/registry/configmaps/%08d", i), Value: value(i),
			CreateRevision: revision, ModRevision: revision, Version: 1,
		})
		if err != nil {
			return err
		}
		if err := keys.Put(revisionKey(revision), kv); err != nil {
			return err
		}
	}
	return nil
}

func revisionKey(main int64) []byte {
	key := append(binary.BigEndian.AppendUint64(nil, uint64(main)), '_')
	return binary.BigEndian.AppendUint64(key, 0)
}

func noise(i int) []byte {
	seed := [32]byte{}
	binary.BigEndian.PutUint64(seed[:], uint64(i))
	value := make([]byte, valueSize)
	_, _ = rand.NewChaCha8(seed).Read(value) // never fails
	return value
}

func text(i int) []byte {
	line := fmt.Sprintf("{\"kind\":\"ConfigMap\",\"name\":\"settings-%d\",\"data\":{\"replicas\":\"%d\"}}\n", i, i%7)
	return []byte(strings.Repeat(line, valueSize/len(line)))
}
