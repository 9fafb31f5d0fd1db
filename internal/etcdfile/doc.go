// Package etcdfile reads etcd's database files offline: a snapshot, or the db file in the data directory of a
// stopped member. Nothing here writes to a file, not even a lock file: the file is opened read-only and mapped.
//
// Every read begins with a check of the file's page structure, done here and not by bbolt's own check: bbolt
// checks in a goroutine of its own, where a damaged page ends the whole process, and it takes no context. A
// file that passes is then read through bbolt. Whatever is wrong with a file comes back as a *CorruptError.
//
// Functions take a tick, which is called about once for each MiB of work with the bytes read since the last
// call, so that a caller can time out on progress. It may be nil.
//
// # Memory
//
// No key or value is held. The structure check needs two bits for each page of the file. Counting live keys
// and HashKV need a 128-bit hash of each distinct key, at most about 40 bytes with its share of the map, and
// one bit for each revision at or below the compact revision.
//
// # HashKV
//
// HashKV is what etcd's Maintenance.HashKV answers at a revision R and a compact revision C: CRC-32C over the
// bucket's name and over key and value of every entry whose main revision is at most R, except
//
//   - an entry at or below C that is not the newest of its key at R, or whose newest is a tombstone, unless no
//     key at all is live at R: then everything that is still in the file counts;
//   - a tombstone exactly at C.
//
// It follows that the result does not depend on how far a compaction has got, except where no key is live.
// Two answers of live members are comparable only if both R and C are equal: a member keeps the hashes of its
// last ten compactions and answers HashKV at such a revision with the compact revision that held before that
// compaction, over entries that the compaction removed. A restart forgets those hashes.
package etcdfile
