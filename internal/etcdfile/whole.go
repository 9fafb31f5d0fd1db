package etcdfile

import (
	"context"
	"errors"
	"os"
)

// Whole checks a bbolt file that nobody writes to while it is read, and that need not be etcd's: its structure,
// and that both meta pages are those of the last two transactions. bbolt itself is content with one of them, and
// where the newer one is damaged it goes back to the older, which forgets a transaction without a word. A file
// that is whole can be read through bbolt without a fault. The error is a *CorruptError.
func Whole(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	p := &progress{ctx: context.Background()}
	err = mapped(f, p, func(s *structure) error {
		if err := s.open(); err != nil {
			return err
		}
		s.checkMetas()
		_, err := s.check(func(string, []byte, []byte) error { return nil })
		return err
	})
	return errors.Join(err, f.Close())
}

// checkMetas checks that no meta page was damaged or replaced. Each transaction writes one of them, in turn; in a
// copy that bbolt made of an open database the first transaction may write the same one again.
func (s *structure) checkMetas() {
	first, second := parseMeta(s.data, 0), parseMeta(s.data, s.pageSize)
	switch {
	case first == nil || second == nil:
		s.found.add("one of its two meta pages is damaged, and the last change may be lost")
	case apart(first.txid, second.txid) == 0 || apart(first.txid, second.txid) > 2:
		s.found.add("its two meta pages are of transactions %d and %d, which do not follow each other", first.txid, second.txid)
	}
}

func apart(a, b uint64) uint64 { return max(a, b) - min(a, b) }
