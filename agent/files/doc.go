// Package files keeps files of a node with its snapshots, and writes them back: keys and certificates, manifests of
// static pods, whatever a cluster needs besides etcd's data.
//
// Which files may be read or written is the agent's configuration alone: it gives sets of paths a name, and the
// controller knows the names only. In the snapshots' directory, what is kept with a snapshot called pre-1.31 is
//
//	pre-1.31.files         a tar, as the bundle in the manifest describes it; Put writes one that came from a remote
//	pre-1.31.files.part    the same while it is being written
//
// It is encrypted where copies are. Then the agent's data directory holds it in the clear for a restore that writes files
// back, from before the old etcd is stopped until the restore has ended.
//
// Only regular files and directories are taken. Where a symbolic link, a device or anything else is met, the whole is
// refused: what cannot be written back is not to be missed on the day it is needed.
//
// Beside a file that a restore with the ID 01J9 replaces lie, for as long as they are needed,
//
//	.requorum-quarantine-01J9-NAME   what was there before; a person removes it
//	.requorum-restore-01J9-NAME      what is to be there, until it is complete
//
// The names begin with a dot so that a kubelet passes them over.
package files
