package boltfile

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
)

const digestSize = 8

// digest identifies a record by where it is and what it says.
func digest(bucket, key, value []byte) uint64 {
	h := sha256.New()
	for _, part := range [][]byte{bucket, key} {
		_, _ = h.Write(binary.LittleEndian.AppendUint64(nil, uint64(len(part)))) // a hash never fails
		_, _ = h.Write(part)
	}
	_, _ = h.Write(value)
	return binary.LittleEndian.Uint64(h.Sum(nil))
}

// wrap returns what is stored for a value.
func wrap(bucket, key, value []byte) []byte {
	return append(binary.LittleEndian.AppendUint64(nil, digest(bucket, key, value)), value...)
}

// unwrap returns a copy of the value that is stored, and its digest. ok is false if it is not what was written.
func unwrap(bucket, key, stored []byte) (value []byte, sum uint64, ok bool) {
	if len(stored) < digestSize {
		return nil, 0, false
	}
	value, sum = bytes.Clone(stored[digestSize:]), binary.LittleEndian.Uint64(stored)
	return value, sum, sum == digest(bucket, key, value)
}

// seal sums all records up, so that a missing one is noticed. Their order does not matter.
type seal struct{ count, sum uint64 }

func (s *seal) add(sum uint64)    { s.count, s.sum = s.count+1, s.sum+sum }
func (s *seal) remove(sum uint64) { s.count, s.sum = s.count-1, s.sum-sum }

func (s *seal) encode() []byte {
	return binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(nil, s.count), s.sum)
}

func decodeSeal(value []byte) (s seal, ok bool) {
	if len(value) != 16 {
		return seal{}, false
	}
	return seal{binary.LittleEndian.Uint64(value), binary.LittleEndian.Uint64(value[8:])}, true
}
