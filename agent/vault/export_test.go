package vault

import (
	"errors"
	"os"
)

// SetFree makes the vault believe that so many bytes are free.
func (v *Vault) SetFree(bytes uint64) {
	v.free = func(string) (uint64, error) { return bytes, nil }
}

// FillDisk makes the next write fail as it does on a full disk.
func (w *Writer) FillDisk() error { return w.part.toFullDisk() }

// FillDisk makes the next write fail as it does on a full disk.
func (r *Receiver) FillDisk() error { return r.part.toFullDisk() }

func (p *part) toFullDisk() error {
	full, err := os.OpenFile("/dev/full", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	err = p.f.Close()
	p.f = full
	return errors.Join(err)
}

// HasTrailer runs data through a digest in pieces of the given sizes, the last of which repeats.
func HasTrailer(data []byte, pieces []int) (size int64, md5, sha256 string, fits bool) {
	d := newDigest()
	for i := 0; len(data) > 0; i++ {
		n := min(len(data), max(1, pieces[min(i, len(pieces)-1)]))
		d.Write(data[:n])
		data = data[n:]
	}
	f := d.facts()
	return f.GetSize(), f.GetMd5(), f.GetSha256(), f.GetHasTrailer()
}

// BlockSize is how much of a file is hashed at once.
const BlockSize = blockSize
