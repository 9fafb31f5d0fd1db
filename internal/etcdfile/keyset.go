package etcdfile

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"math/bits"

	"golang.org/x/sys/unix"
)

const (
	slotSize = 12      // bytes: 64 bits of one hash, 30 of another, and the marks
	marks    = 0b11    // one for each view
	minSlots = 1 << 12 // 48 KiB
	// entryBytes is the least that an entry of the key bucket takes of the file.
	entryBytes = elementSize + revisionSize
)

// maxSlots bounds the memory that a keySet takes: 24 MiB. Tests lower it.
var maxSlots uint64 = 1 << 21

// keySet remembers keys by 94 bits of a hash that is another in every run: among 100 million keys two fall
// together with a probability of 3e-13. Its memory is not the garbage collector's: it goes back at once.
type keySet struct {
	slots []byte
	mask  uint64
	free  uint64 // keys that still fit
	seeds [2]maphash.Seed
}

// newKeySet returns a set for the keys of a file of size bytes, or as many of them as fit.
func newKeySet(size uint64) (*keySet, error) {
	want := uint64(1) << bits.Len64(size/entryBytes*5/4)
	n := min(max(want, minSlots), maxSlots)
	slots, err := unix.Mmap(-1, 0, int(n*slotSize), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return nil, fmt.Errorf("memory for keys: %w", err)
	}
	s := &keySet{slots: slots, mask: n - 1, seeds: [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()}}
	s.free = s.capacity()
	return s, nil
}

func (s *keySet) capacity() uint64 { return (s.mask + 1) / 8 * 7 }

func (s *keySet) close() error { return unix.Munmap(s.slots) }

func (s *keySet) empty() {
	clear(s.slots)
	s.free = s.capacity()
}

// keyHash is what a set knows of a key.
type keyHash struct {
	slot uint64
	more uint32 // its lowest two bits are the marks' place
	part uint32
}

func (s *keySet) hash(key []byte) keyHash {
	a, b := maphash.Bytes(s.seeds[0], key), maphash.Bytes(s.seeds[1], key)
	return keyHash{slot: max(a, 1), more: uint32(b) &^ marks, part: uint32(b >> 32)}
}

var errSetFull = errors.New("too many keys for one pass")

// mark puts marks on a key and returns those that it had. It fails with errSetFull where a new key does not
// fit.
func (s *keySet) mark(h keyHash, mark uint32) (had uint32, err error) {
	for i := h.slot & s.mask; ; i = (i + 1) & s.mask {
		slot := s.slots[i*slotSize:][:slotSize]
		switch more := binary.NativeEndian.Uint32(slot[8:]); binary.NativeEndian.Uint64(slot) {
		case 0:
			if s.free == 0 {
				return 0, errSetFull
			}
			s.free--
			binary.NativeEndian.PutUint64(slot, h.slot)
			binary.NativeEndian.PutUint32(slot[8:], h.more|mark)
			return 0, nil
		case h.slot:
			if more&^marks == h.more {
				binary.NativeEndian.PutUint32(slot[8:], more|mark)
				return more & marks, nil
			}
		}
	}
}
