package audit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/controller/store"
	"github.com/requorum/requorum/internal/durable"
)

// Flush writes to the file what is in the store and not yet in the file. What fails is tried again with the next entry.
func (l *Log) Flush() {
	if err := l.flush(); err != nil {
		l.log.Error("the file of the audit log cannot be written; calls that change something fail until it can", "error", err)
	}
}

func (l *Log) flush() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	pending, err := l.after(l.written)
	if err != nil {
		return fmt.Errorf("audit log: %w", err)
	}
	if len(pending) == 0 {
		return nil
	}
	var lines bytes.Buffer
	for _, e := range pending {
		line, err := lineOf(e)
		if err != nil {
			return fmt.Errorf("audit log: entry %s: %w", e.GetId(), err)
		}
		lines.Write(line)
	}
	if err := l.file.append(lines.Bytes()); err != nil {
		return fmt.Errorf("audit log: %w", err)
	}
	l.written = pending[len(pending)-1].GetId()
	return nil
}

// after returns the entries after the one with that ID, oldest first.
func (l *Log) after(id string) ([]*requorumv1.AuditEntry, error) {
	var found []*requorumv1.AuditEntry
	err := l.store.View(func(tx store.Tx) error {
		return tx.Down(store.Audit, "", func(key string, data []byte) error {
			if key <= id {
				return errEnough
			}
			e := new(requorumv1.AuditEntry)
			found = append(found, e)
			return proto.Unmarshal(data, e)
		})
	})
	if errors.Is(err, errEnough) {
		err = nil
	}
	slices.Reverse(found)
	return found, err
}

// lineOf returns an entry as one line of JSON. protojson varies its blanks on purpose, which a file need not.
func lineOf(e *requorumv1.AuditEntry) ([]byte, error) {
	data, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(e)
	if err != nil {
		return nil, err
	}
	var line bytes.Buffer
	if err := json.Compact(&line, data); err != nil {
		return nil, err
	}
	line.WriteByte('\n')
	return line.Bytes(), nil
}

// file is where lines are added. It is opened anew each time, so that somebody else may rename it at any time.
type file struct {
	path  string
	most  int64 // bytes, before it is put aside
	files int   // that are kept, the present one included
}

// append makes lines durable at the end of the file, all of them or none.
func (f file) append(lines []byte) (err error) {
	if err := f.rotate(int64(len(lines))); err != nil {
		return err
	}
	w, err := os.OpenFile(f.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	info, err := w.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a file", f.path)
	}
	if info.Mode().Perm()&0o077 != 0 {
		if err := w.Chmod(0o600); err != nil {
			return err
		}
	}
	if _, err := w.Write(lines); err != nil {
		return errors.Join(err, w.Truncate(info.Size())) // no half a line
	}
	if err := w.Sync(); err != nil {
		return errors.Join(err, w.Truncate(info.Size()))
	}
	if info.Size() > 0 {
		return nil
	}
	return durable.SyncDir(filepath.Dir(f.path))
}

// rotate puts the file aside if more bytes would make it too large: path becomes path.1, and so on.
func (f file) rotate(more int64) error {
	info, err := os.Stat(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil || info.Size() == 0 || info.Size()+more <= f.most {
		return err
	}
	if f.files <= 1 {
		return durable.Remove(f.path)
	}
	for n := f.files - 1; n > 0; n-- {
		from := f.path
		if n > 1 {
			from = f.aside(n - 1)
		}
		if err := os.Rename(from, f.aside(n)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return durable.SyncDir(filepath.Dir(f.path))
}

func (f file) aside(n int) string { return fmt.Sprintf("%s.%d", f.path, n) }

// tail is how much of the end of the file is looked at for its last line.
const tail = 1 << 20

// last returns the ID of the last entry in the file, or in the one that was put aside last; empty if there is none. A
// line that was cut off is removed: its entry is written again.
func (f file) last() (string, error) {
	id, err := f.lastIn(f.path)
	if id != "" || err != nil {
		return id, err
	}
	return f.lastIn(f.aside(1))
}

func (f file) lastIn(path string) (id string, err error) {
	r, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	info, err := r.Stat()
	if err != nil {
		return "", err
	}
	data := make([]byte, min(tail, info.Size()))
	if _, err := io.ReadFull(io.NewSectionReader(r, info.Size()-int64(len(data)), int64(len(data))), data); err != nil {
		return "", err
	}
	complete := bytes.LastIndexByte(data, '\n') + 1
	if torn := len(data) - complete; torn > 0 {
		if err := r.Truncate(info.Size() - int64(torn)); err != nil {
			return "", err
		}
	}
	for line := range bytes.Lines(data[:complete]) {
		var entry struct {
			ID string `json:"id"`
		}
		if err := json.Unmarshal(line, &entry); err == nil { // the first may be cut off by tail
			id = max(id, entry.ID)
		}
	}
	return id, nil
}
