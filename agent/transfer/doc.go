// Package transfer moves snapshot files between nodes.
//
// # The chain
//
// A node serves a file while it is still receiving it. With nodes that each fetch from the one before
// them the file flows down a chain, and the node that saved it sends it once. Every node writes the file
// in order and can continue at its own offset from any other holder.
//
// # Following a save
//
// While a member's snapshot is being saved nobody knows yet what the file will be. The other nodes follow it all the
// same, down the same chain (Follow): each keeps what came, hashed as it passed, and a Fetch of the finished file
// begins where that ends. Nothing depends on it. A neighbour that does not answer, a save that fails and begins
// anew, a node that restarts: then Fetch has more to do, and the file's SHA-256 tells if the bytes were another's.
//
// # A live chain and a dead one
//
// A server that has nothing to send yet sends an empty chunk at once and then every few seconds (the
// keep-alive). A fetcher therefore tells three things apart:
//
//   - Silence: nothing at all for half of ProgressTimeout. The source is gone or cut off. The next source
//     is tried, from the offset reached. Only the direct successor of a dead node sees silence, so only
//     that one moves.
//   - Starving: keep-alives and no bytes for ProgressTimeout. The source lives and waits for its own
//     predecessor, whose successor has had time to move by then. The other sources are asked, one after
//     the other, whether they have more bytes; one that does takes over. Otherwise the fetcher stays and
//     asks again after another ProgressTimeout. After Rounds of them without a byte the source counts as
//     failed, so that nodes that wait for each other do not wait for ever.
//   - Not yet: NOT_FOUND, PERMISSION_DENIED or UNAVAILABLE before the first byte. The source's own task
//     may not have begun. It is asked again until ProgressTimeout is over, so that a chain forms in
//     whatever order tasks start. With UNAVAILABLE its agent does not even answer; then a tenth of that
//     time, in which an agent restarts, is enough.
//
// A source that breaks off, sends a wrong checksum or a wrong offset is left at once. When all sources
// have been tried the round is over; after a pause with full jitter the next one begins. Fetch gives up
// when Rounds rounds in a row brought no byte.
//
// # Wrong bytes
//
// Every chunk carries a CRC-32C, checked before the bytes are written, and the whole file is checked
// against its manifest at the end. If that fails, some source handed out bytes that were wrong on its
// own disk. The file is discarded and received once more from the last source of the list, which is by
// agreement the node that saved it; if that fails too, the error names the nodes that the bytes came from.
//
// # Who may read
//
// A node may read only from nodes of its own cluster and only what Grants allow. A grant is given for as
// long as the whole distribution lasts: a successor may still need it when this node's own fetch is done.
// It names a node; which keys are that node's is told by the controller, and again whenever that changes. A
// stream whose key is revoked ends with its next chunk.
//
// # Compression
//
// Chunks are compressed with zstd only while that moves the file faster; see pace.
package transfer
