// Package etcdfile reads etcd's database files offline: a snapshot, or the db file in the data directory of a
// stopped member. Nothing here writes to a file, not even a lock file: the file is opened read-only and mapped.
//
// Pages are read here and not by bbolt, whose own check ends the whole process where a page is damaged, takes no
// context, and needs passes of its own. Every page is checked in the first pass over the file, and what that
// pass has read does not count unless all of them are sound. Whatever is wrong with a file comes back as a
// *CorruptError.
//
// Functions take a tick, which is called about once for each MiB of work with the bytes read since the last
// call, so that a caller can time out on progress. It may be nil.
//
// # Memory
//
// It does not grow with the size of the file: at most 16 MiB of it are mapped at a time, and keys are remembered
// in a set of at most 24 MiB, which holds 1.8 million of them. A file with more is read once more for each
// 1.8 million. What does grow is two bits for each page and, for HashKV, one bit for each entry at or below the
// compact revision: 2.5 MiB for 20 million entries.
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
