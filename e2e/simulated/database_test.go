//go:build faultinject

package simulated_test

import (
	"bytes"
	"crypto/md5"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash/crc32"
	"maps"
	"slices"
	"sync"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"
)

// value is what a key holds.
type value struct {
	text                       string
	version, created, modified int64
	lease                      int64
}

// database is what a member has applied. It never changes: a write makes the next one.
type database struct {
	before            *database // one change earlier; nil for the first
	cluster           string
	members           []*requorumv1.ListedMember
	index             uint64 // of the last entry of the raft log
	changed           uint64 // of the last one that changes keys or leases
	revision, compact int64
	keys              map[string]value
	leases            map[int64]int64 // time to live in seconds, by ID
	alarms            []*requorumv1.Alarm
}

// next returns a copy that change has changed, one entry of the raft log later.
func (d *database) next(change func(*database)) *database {
	n := *d
	n.before, n.index = d, d.index+1
	n.keys, n.leases, n.alarms = maps.Clone(d.keys), maps.Clone(d.leases), slices.Clone(d.alarms)
	change(&n)
	return &n
}

func (d *database) put(key, text string, lease int64) *database {
	return d.next(func(n *database) {
		n.revision++
		n.changed = n.index
		v := n.keys[key]
		if v.version == 0 {
			v.created = n.revision
		}
		n.keys[key] = value{text: text, version: v.version + 1, created: v.created, modified: n.revision, lease: lease}
		if lease != 0 {
			n.leases[lease] = 3600
		}
	})
}

func (d *database) corrupt() bool {
	return slices.ContainsFunc(d.alarms, func(a *requorumv1.Alarm) bool { return a.GetType() == "CORRUPT" })
}

// hash is the HashKV at a revision.
func (d *database) hash(revision, compact int64) uint32 {
	for d.revision > revision && d.before != nil {
		d = d.before
	}
	var text bytes.Buffer
	for _, k := range slices.Sorted(maps.Keys(d.keys)) {
		fmt.Fprintf(&text, "%s=%v;", k, d.keys[k])
	}
	fmt.Fprintf(&text, "@%d", compact)
	return crc32.ChecksumIEEE(text.Bytes())
}

// same tells whether two databases hold the same keys, values, versions and leases.
func (d *database) same(o *database) bool {
	return maps.Equal(d.keys, o.keys) && maps.Equal(d.leases, o.leases)
}

func hexID(parts ...string) string {
	sum := sha256.Sum256(fmt.Append(nil, parts))
	return hex.EncodeToString(sum[:8])
}

// files turns databases into snapshot files and back.
type files struct {
	mu    sync.Mutex
	known []*database
}

const fileSize = 8*512 + sha256.Size

func (f *files) encode(d *database) []byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.known = append(f.known, d)
	content := make([]byte, fileSize)
	copy(content, fmt.Sprintf("%d\n", len(f.known)-1))
	sum := sha256.Sum256(content[:fileSize-sha256.Size])
	copy(content[fileSize-sha256.Size:], sum[:])
	return content
}

func (f *files) decode(content []byte) (*database, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var at int
	if _, err := fmt.Sscanf(string(content), "%d\n", &at); err != nil || len(content) != fileSize {
		return nil, fmt.Errorf("a file of %d bytes is no snapshot: %w", len(content), err)
	}
	return f.known[at], nil
}

func sums(content []byte) (md5Sum, sha string) {
	m, s := md5.Sum(content), sha256.Sum256(content)
	return hex.EncodeToString(m[:]), hex.EncodeToString(s[:])
}

func factsOf(content []byte) *agentv1.CopyFacts {
	m, s := sums(content)
	return &agentv1.CopyFacts{Size: int64(len(content)), Md5: m, Sha256: s, HasTrailer: len(content) == fileSize}
}

// manifest is what a snapshot file tells of itself.
func (d *database) manifest() *requorumv1.Manifest {
	return &requorumv1.Manifest{
		Size: fileSize, SizeInUse: fileSize, HasTrailer: true, Revision: d.revision, CompactRevision: d.compact, Keys: int64(len(d.keys)),
		HashKv: d.hash(d.revision, d.compact), StorageVersion: "3.6", Members: d.members, Alarms: d.alarms, Leases: int64(len(d.leases)),
		AppliedIndex: d.index,
	}
}
