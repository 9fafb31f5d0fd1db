package etcdfile

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"os"

	"golang.org/x/sys/unix"
)

// bbolt's file format, version 2, in the byte order of the machine. It has not changed since 2014.
const (
	metaMagic   = 0xED0CDAED
	metaVersion = 2
	metaSize    = 64 // bytes, its checksum included
	headerSize  = 16 // of a page: id, flags, count, overflow
	elementSize = 16 // of an entry in a branch or leaf page
	bucketSize  = 16 // of a bucket's value: root page, sequence

	branchFlag   = 0x01
	leafFlag     = 0x02
	metaFlag     = 0x04
	freelistFlag = 0x10
	bucketFlag   = 0x01 // of a leaf element

	noFreelist = ^uint64(0) // etcd does not persist the list of free pages

	maxDepth = 64 // far beyond any real tree: bbolt's pages hold hundreds of elements
)

var order = binary.NativeEndian

// structure checks that every page reachable from the newest meta page is inside the file, used once, of a
// known type, and in the order of its keys: what bbolt relies on when it reads through a memory map.
type structure struct {
	data     []byte // the whole file, mapped
	pageSize uint64
	pages    uint64 // high-water mark: IDs are below it
	freelist uint64
	root     uint64
	used     bitset
	usedN    int64 // pages in use
	found    *CorruptError
	progress *progress
}

// checkStructure returns the bytes in use, or a *CorruptError.
func checkStructure(path string, p *progress) (inUse int64, err error) {
	data, unmap, err := mapFile(path)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, unmap()) }()
	s := &structure{data: data, found: &CorruptError{Path: path}, progress: p}
	if err := s.check(); err != nil {
		return 0, err
	}
	if len(s.found.Problems) > 0 {
		return 0, s.found
	}
	return s.usedN * int64(s.pageSize), nil
}

func mapFile(path string) (data []byte, unmap func() error, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return nil, nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, nil, fmt.Errorf("%s is not a regular file", path)
	}
	if info.Size() == 0 {
		return nil, nil, corrupt(path, "it is empty")
	}
	data, err = unix.Mmap(int(f.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, nil, fmt.Errorf("map %s: %w", path, err)
	}
	return data, func() error { return unix.Munmap(data) }, nil
}

func (s *structure) check() error {
	if !s.readMeta() {
		s.found.add("no valid meta page")
		return nil
	}
	if have, want := uint64(len(s.data))/s.pageSize, max(s.pages, 2); have < want {
		s.found.add("it is cut off: %d bytes, %d pages of %d bytes expected", len(s.data), want, s.pageSize)
		return nil
	}
	s.used = make(bitset, s.pages/64+1)
	for id := range uint64(2) {
		s.use(id)
		if p, _ := parsePage(s.data[id*s.pageSize:]); p.id != id || p.flags != metaFlag {
			s.found.add("page %d is no meta page", id)
		}
	}
	if err := s.walk(s.root, span{}, 0); err != nil {
		return err
	}
	if s.freelist != noFreelist {
		s.checkFreelist()
	}
	return s.progress.flush()
}

// readMeta takes page size, root and high-water mark from the valid meta page with the highest transaction ID.
func (s *structure) readMeta() bool {
	first := parseMeta(s.data, 0)
	size := uint64(0)
	if first != nil {
		size = first.pageSize
	}
	for at := uint64(1024); size == 0 && at <= 1024<<14; at *= 2 {
		if m := parseMeta(s.data, at); m != nil && m.pageSize == at {
			size = at
		}
	}
	if size < 1024 || size > 1<<24 || size&(size-1) != 0 {
		return false
	}
	newest := first
	if second := parseMeta(s.data, size); second != nil && (newest == nil || second.txid > newest.txid) {
		newest = second
	}
	s.pageSize, s.root, s.freelist, s.pages = size, newest.root, newest.freelist, newest.pages
	return true
}

type meta struct{ pageSize, root, freelist, pages, txid uint64 }

// parseMeta returns nil where there is no valid meta page.
func parseMeta(data []byte, at uint64) *meta {
	if at+headerSize+metaSize > uint64(len(data)) {
		return nil
	}
	b := data[at+headerSize:][:metaSize]
	sum := fnv.New64a()
	_, _ = sum.Write(b[:56]) // never fails
	if order.Uint32(b) != metaMagic || order.Uint32(b[4:]) != metaVersion || order.Uint64(b[56:]) != sum.Sum64() {
		return nil
	}
	return &meta{
		pageSize: uint64(order.Uint32(b[8:])), root: order.Uint64(b[16:]),
		freelist: order.Uint64(b[32:]), pages: order.Uint64(b[40:]), txid: order.Uint64(b[48:]),
	}
}

// span holds the keys that a page may have: from min on, below max. nil is no bound.
type span struct{ min, max []byte }

// walk checks the page and everything below it. It returns an error only when the context is done.
func (s *structure) walk(id uint64, keys span, depth int) error {
	if depth > maxDepth {
		s.found.add("page %d: the tree is deeper than %d pages", id, maxDepth)
		return nil
	}
	p, ok := s.page(id)
	if !ok {
		return nil
	}
	if err := s.progress.did(int64(s.pageSize)); err != nil {
		return err
	}
	elements, ok := p.elements(s.found)
	if !ok {
		return nil
	}
	for i, e := range elements {
		s.checkOrder(id, i, e.key, elements, keys)
		var err error
		switch {
		case p.flags == branchFlag:
			err = s.walk(e.child, span{e.key, following(elements, i, keys.max)}, depth+1)
		case e.flags&bucketFlag != 0:
			err = s.walkBucket(id, e, depth)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func following(elements []element, i int, last []byte) []byte {
	if i+1 < len(elements) {
		return elements[i+1].key
	}
	return last
}

func (s *structure) checkOrder(id uint64, i int, key []byte, elements []element, keys span) {
	switch {
	case len(key) == 0:
		s.found.add("page %d: key %d is empty", id, i)
	case i > 0 && bytes.Compare(elements[i-1].key, key) >= 0:
		s.found.add("page %d: key %d is not above the key before it", id, i)
	case i == 0 && keys.min != nil && bytes.Compare(key, keys.min) < 0:
		s.found.add("page %d: its first key is below its parent's key", id)
	case keys.max != nil && bytes.Compare(key, keys.max) >= 0:
		s.found.add("page %d: key %d is not below its parent's next key", id, i)
	}
}

// walkBucket checks the bucket that is the value of a leaf element: a tree of its own, or a page inside the
// value for a small one.
func (s *structure) walkBucket(id uint64, e element, depth int) error {
	if len(e.value) < bucketSize {
		s.found.add("page %d: a bucket of %d bytes", id, len(e.value))
		return nil
	}
	if root := order.Uint64(e.value); root != 0 {
		return s.walk(root, span{}, depth+1)
	}
	p, ok := parsePage(e.value[bucketSize:])
	if !ok || p.flags != leafFlag {
		s.found.add("page %d: a bucket in it is no leaf page", id)
		return nil
	}
	elements, ok := p.elements(s.found)
	if !ok {
		return nil
	}
	for i, inner := range elements {
		s.checkOrder(id, i, inner.key, elements, span{})
		if inner.flags&bucketFlag != 0 {
			s.found.add("page %d: a bucket in an inline bucket", id)
		}
	}
	return nil
}

// page returns a branch or leaf page and marks it and its overflow as used.
func (s *structure) page(id uint64) (page, bool) {
	p, ok := s.extent(id)
	if !ok {
		return page{}, false
	}
	if p.flags != branchFlag && p.flags != leafFlag {
		s.found.add("page %d: flags %#x are of no branch and no leaf", id, p.flags)
		return page{}, false
	}
	return p, true
}

// extent returns the page with its overflow, all inside the file and not used before.
func (s *structure) extent(id uint64) (page, bool) {
	if id < 2 || id >= s.pages {
		s.found.add("page %d is outside of the %d pages", id, s.pages)
		return page{}, false
	}
	p, _ := parsePage(s.data[id*s.pageSize:][:s.pageSize]) // a page is larger than its header
	if p.id != id {
		s.found.add("page %d says that it is page %d", id, p.id)
		return page{}, false
	}
	if p.overflow >= s.pages-id {
		s.found.add("page %d overflows to %d pages, beyond the last", id, p.overflow)
		return page{}, false
	}
	for i := id; i <= id+p.overflow; i++ {
		if !s.use(i) {
			s.found.add("page %d is used twice", i)
			return page{}, false
		}
	}
	p.data = s.data[id*s.pageSize:][:(p.overflow+1)*s.pageSize]
	return p, true
}

func (s *structure) use(id uint64) (first bool) {
	if s.used.get(id) {
		return false
	}
	s.used.set(id)
	s.usedN++
	return true
}

// checkFreelist checks that every page is either used or free.
func (s *structure) checkFreelist() {
	p, ok := s.extent(s.freelist)
	if !ok {
		return
	}
	n, ids := uint64(p.count), p.data[headerSize:]
	if n == 0xFFFF { // the number is in the first place of the list
		n, ids = order.Uint64(ids), ids[8:]
	}
	if p.flags != freelistFlag || n > uint64(len(ids))/8 {
		s.found.add("page %d: no list of free pages", s.freelist)
		return
	}
	free := make(bitset, s.pages/64+1)
	for ; n > 0; n, ids = n-1, ids[8:] {
		id := order.Uint64(ids)
		if id < 2 || id >= s.pages || free.get(id) || s.used.get(id) {
			s.found.add("page %d cannot be free", id)
			continue
		}
		free.set(id)
	}
	for id := range s.pages {
		if !s.used.get(id) && !free.get(id) {
			s.found.add("page %d is neither used nor free", id)
		}
	}
}

type page struct {
	id, overflow uint64
	flags, count uint16
	data         []byte
}

type element struct {
	flags      uint32
	key, value []byte // value of a leaf's element
	child      uint64 // of a branch's element
}

func parsePage(data []byte) (page, bool) {
	if len(data) < headerSize {
		return page{}, false
	}
	return page{
		id: order.Uint64(data), flags: order.Uint16(data[8:]), count: order.Uint16(data[10:]),
		overflow: uint64(order.Uint32(data[12:])), data: data,
	}, true
}

// elements returns the entries of a branch or leaf page. ok is false where one reaches out of the page.
func (p page) elements(found *CorruptError) (list []element, ok bool) {
	if p.flags == branchFlag && p.count == 0 {
		found.add("page %d: a branch without children", p.id)
		return nil, false
	}
	list = make([]element, p.count)
	for i := range list {
		at := headerSize + i*elementSize
		if at+elementSize > len(p.data) {
			found.add("page %d: %d elements do not fit", p.id, p.count)
			return nil, false
		}
		if list[i], ok = p.element(p.data[at:]); !ok {
			found.add("page %d: element %d reaches out of the page", p.id, i)
			return nil, false
		}
	}
	return list, true
}

// element parses the element at the start of b. Its key and value are at an offset from there.
func (p page) element(b []byte) (element, bool) {
	if p.flags == branchFlag {
		pos, size := uint64(order.Uint32(b)), uint64(order.Uint32(b[4:]))
		if pos+size > uint64(len(b)) {
			return element{}, false
		}
		return element{key: b[pos:][:size], child: order.Uint64(b[8:])}, true
	}
	pos, ksize, vsize := uint64(order.Uint32(b[4:])), uint64(order.Uint32(b[8:])), uint64(order.Uint32(b[12:]))
	if pos+ksize+vsize > uint64(len(b)) {
		return element{}, false
	}
	return element{flags: order.Uint32(b), key: b[pos:][:ksize], value: b[pos+ksize:][:vsize]}, true
}
