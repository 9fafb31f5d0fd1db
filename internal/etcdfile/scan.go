package etcdfile

import (
	"context"
	"errors"

	"go.etcd.io/etcd/server/v3/storage/schema"
)

// scan is one reading of a file: its structure is checked, and HashKV computed for one or two views.
//
// The first pass is the check, from the last entry to the first, so that the first entry met of a key is its
// newest. The last pass goes forwards, which is the order that the hash is in. Only where there are more keys
// than a keySet holds, others come in between, each for a part of the keys.
type scan struct {
	*structure
	look   func(bounds) []*view                         // called once the bounds are known
	other  func(bucket string, key, value []byte) error // for entries of buckets but key; may be nil
	bounds bounds
	views  []*view

	keys    *keySet
	full    bool   // there are more keys than fit
	entries uint64 // of the key bucket
	fitted  uint64 // of those, how many came before keys was full
}

// run reads the file. look says, once the file's bounds are known, what is to be computed.
func run(ctx context.Context, path string, tick func(int64), look func(bounds) []*view, other func(string, []byte, []byte) error) (*scan, error) {
	s := &scan{look: look, other: other, bounds: bounds{revision: 1}} // of an empty store
	err := read(path, &progress{ctx: ctx, tick: tick}, func(file *structure) error {
		s.structure = file
		return s.run()
	})
	if err != nil {
		return nil, err
	}
	return s, nil
}

func (s *scan) run() (err error) {
	if err := s.open(); err != nil {
		return err
	}
	if s.keys, err = newKeySet(uint64(len(s.data))); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.keys.close()) }()
	buckets, err := s.check(s.visit)
	if err != nil {
		return err
	}
	keys, ok := buckets[string(schema.Key.Name())]
	if _, meta := buckets[string(schema.Meta.Name())]; !ok || !meta {
		return corrupt(s.path, "it lacks etcd's buckets")
	}
	s.decide()
	if s.full {
		if err := s.findNewestInParts(keys); err != nil {
			return err
		}
	}
	return s.hash(keys)
}

// visit takes the entries as check comes to them: those of meta before those of key.
func (s *scan) visit(bucket string, key, value []byte) error {
	var err error
	switch {
	case bucket == string(schema.Key.Name()):
		return s.visitKey(key, value)
	case bucket == string(schema.Meta.Name()):
		err = s.bounds.noteMeta(key, value)
	}
	if err == nil && s.other != nil {
		err = s.other(bucket, key, value)
	}
	if err != nil {
		return corrupt(s.path, "%s: %v", bucket, err)
	}
	return nil
}

func (s *scan) visitKey(key, value []byte) error {
	r, err := parseRevision(key)
	if err != nil {
		return corrupt(s.path, "%v", err)
	}
	if s.entries++; s.entries == 1 {
		s.bounds.revision = max(s.bounds.revision, r.main)
		s.decide()
	}
	if s.full {
		return nil
	}
	err = s.findNewest(r, value, 0, 1)
	if s.full = errors.Is(err, errSetFull); s.full {
		s.fitted = s.entries
		return nil
	}
	return err
}

// decide asks, once, what is to be computed.
func (s *scan) decide() {
	if s.views == nil {
		s.views = s.look(s.bounds)
	}
}

// findNewest takes an entry, from the last to the first, and notes for each view whether it is the newest of a
// live key. Only keys of the part of that many parts are looked at. It fails with errSetFull.
func (s *scan) findNewest(r revision, value []byte, part, parts uint32) error {
	key, err := keyOf(value)
	if err != nil {
		return corrupt(s.path, "revision %d: %v", r.main, err)
	}
	h := s.keys.hash(key)
	mine := h.part%parts == part
	sees, had := s.sees(r), uint32(0)
	if mine && sees != 0 {
		if had, err = s.keys.mark(h, sees); err != nil {
			return err
		}
	}
	for i, v := range s.views {
		if mark := uint32(1) << i; sees&mark != 0 {
			v.note(r, key, mine && had&mark == 0 && !r.tombstone)
		}
	}
	return nil
}

// sees returns the marks of the views that an entry is in.
func (s *scan) sees(r revision) (marks uint32) {
	for i, v := range s.views {
		if r.main <= v.revision {
			marks |= 1 << i
		}
	}
	return marks
}

// findNewestInParts is findNewest for a file with more keys than fit into the set: each pass looks at a part of
// them. As many of the entries as came before the set was full tell how many parts it takes.
func (s *scan) findNewestInParts(keys tree) error {
	parts := uint32(s.entries/max(s.fitted, 1)) + 1
	for ; ; parts *= 2 {
		for _, v := range s.views {
			v.live, v.keys, v.newest = 0, 0, nil
		}
		err := s.eachPart(keys, parts)
		if !errors.Is(err, errSetFull) {
			return err
		}
	}
}

func (s *scan) eachPart(keys tree, parts uint32) error {
	for part := range parts {
		s.keys.empty()
		for _, v := range s.views {
			v.n = 0
		}
		if err := s.each(keys, backwards, func(key, value []byte) error {
			r, err := parseRevision(key)
			if err != nil {
				return corrupt(s.path, "%v", err)
			}
			return s.findNewest(r, value, part, parts)
		}); err != nil {
			return err
		}
	}
	return nil
}

func (s *scan) hash(keys tree) error {
	for _, v := range s.views {
		v.begin()
	}
	err := s.each(keys, forwards, func(key, value []byte) error {
		r, err := parseRevision(key)
		if err != nil {
			return corrupt(s.path, "%v", err)
		}
		for _, v := range s.views {
			v.add(r, key, value)
		}
		return nil
	})
	return errors.Join(err, s.progress.flush())
}
