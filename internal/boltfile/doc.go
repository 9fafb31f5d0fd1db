// Package boltfile keeps records in a bbolt file in which damage is noticed. bbolt itself has a checksum over its
// meta pages only: a bit that flips elsewhere may change a record, hide one, or make the process fault.
//
// So each record carries a digest over its bucket, key and value, which is checked whenever it is read, and the
// file carries the number of all records and the sum of their digests, which is checked when it is opened. The
// page structure is checked before bbolt sees the file. What remains unnoticed is a disk that brings back a whole
// earlier state of the file, which is what a file from a backup is too; epochs are there for that.
//
// Damage is told as a *DamagedError. Nothing is repaired: what was lost is not known.
package boltfile
