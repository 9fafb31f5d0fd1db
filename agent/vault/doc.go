// Package vault keeps snapshot files on a node.
//
// A snapshot called pre-1.31 is, in the vault's directory:
//
//	pre-1.31.db            the complete file; sealed it ends in .db.zst, .db.age or .db.zst.age
//	pre-1.31.json          its manifest, requorum.v1.Manifest as protojson
//	pre-1.31.db.part       the file while it is being written
//	pre-1.31.db.expected   the manifest that a partial file being received has to fit
//	pre-1.31.db.plain      for a moment: what a sealed copy is made of, or opened into, loses its name at once
//
// No name can make one snapshot's file collide with another's, and internal/names keeps every name
// inside the directory. Files are 0600 and the directory is 0700: snapshots hold secrets.
//
// A file gets its final name only after fsync, and what has a final name is never written to again. A
// received file gets its manifest before its final name, so that no crash leaves a received copy that
// nobody can describe. A partial file is never listed and never taken for a copy.
//
// One agent uses a vault. Within it every method may be called by any goroutine; one name has at most
// one Writer or Receiver, which is for one goroutine, and any number of Readers. A second process that
// writes the same partial file is refused by a lock on the file.
//
// While a file is written it is handed to the disk every few MiB, so that the fsync at the end does not
// hold up the write-ahead log of an etcd on the same disk.
package vault
