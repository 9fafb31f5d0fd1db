package etcdfile_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	bolt "go.etcd.io/bbolt"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"

	"github.com/requorum/requorum/internal/etcdfile"
)

// writeFile makes a database file with so many keys of valueSize bytes, each written at a revision of its own.
func writeFile(t testing.TB, keys, valueSize int) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "db")
	db, err := bolt.Open(path, 0o600, &bolt.Options{NoSync: true, NoFreelistSync: true})
	if err != nil {
		t.Fatal(err)
	}
	value := bytes.Repeat([]byte{'v'}, valueSize)
	for from := 0; from < keys; from += 2000 {
		if err := db.Update(func(tx *bolt.Tx) error { return writeKeys(tx, from, min(keys, from+2000), value) }); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

func writeKeys(tx *bolt.Tx, from, to int, value []byte) error {
	if _, err := tx.CreateBucketIfNotExists([]byte("meta")); err != nil {
		return err
	}
	b, err := tx.CreateBucketIfNotExists([]byte("key"))
	if err != nil {
		return err
	}
	b.FillPercent = 0.9
	for i := from; i < to; i++ {
		rev := binary.BigEndian.AppendUint64(nil, uint64(i+2))
		rev = binary.BigEndian.AppendUint64(append(rev, '_'), 0)
		kv, err := proto.Marshal(&mvccpb.KeyValue{Key: fmt.Appendf(nil, "key-%d", i), Value: value})
		if err != nil {
			return err
		}
		if err := b.Put(rev, kv); err != nil {
			return err
		}
	}
	return nil
}

// inspected names the file that the test binary, run again as a process of its own, has to inspect.
const inspected = "ETCDFILE_TEST_INSPECT"

func TestPeakMemoryDoesNotGrowWithTheFile(t *testing.T) {
	if path := os.Getenv(inspected); path != "" {
		if _, err := etcdfile.Inspect(t.Context(), path, nil); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(os.Stdout, "peak %d\n", peakMemory(t))
		return
	}
	const limit = 64 << 20
	small, large := inspectInAChild(t, writeFile(t, 10, 10)), inspectInAChild(t, writeFile(t, 24_000, 8_000))
	t.Logf("peak of %d MiB for a tiny file, %d MiB for one of 200 MiB", small>>20, large>>20)
	if large-small > limit {
		t.Errorf("%d MiB more for the large file, at most %d MiB allowed", (large-small)>>20, limit>>20)
	}
}

func inspectInAChild(t *testing.T, path string) (peak int64) {
	t.Helper()
	child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$")
	child.Env = append(os.Environ(), inspected+"="+path)
	out, err := child.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	_, said, _ := strings.Cut(string(out), "peak ")
	if _, err := fmt.Sscan(said, &peak); err != nil {
		t.Fatalf("no peak in %q: %v", out, err)
	}
	return peak
}

// peakMemory returns the most that was ever resident of this process, mapped files included, in bytes.
func peakMemory(t *testing.T) (n int64) {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, line, _ := strings.Cut(string(status), "VmHWM:")
	if _, err := fmt.Sscan(line, &n); err != nil {
		t.Fatal(err)
	}
	return n << 10
}

func BenchmarkInspect(b *testing.B) {
	for name, size := range map[string][2]int{"8 KiB values": {12_000, 8_000}, "small values": {400_000, 30}} {
		b.Run(name, func(b *testing.B) {
			path := writeFile(b, size[0], size[1])
			info, err := os.Stat(path)
			if err != nil {
				b.Fatal(err)
			}
			b.SetBytes(info.Size())
			for b.Loop() {
				if _, err := etcdfile.Inspect(b.Context(), path, nil); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
