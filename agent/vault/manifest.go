package vault

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/encoding/protojson"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"
	"github.com/requorum/requorum/internal/durable"
	"github.com/requorum/requorum/internal/names"
	"github.com/requorum/requorum/internal/seal"
)

// FormatVersion is the version of the manifest's format that this package reads and writes.
const FormatVersion = 1

// maxManifest bounds a manifest's file, so that a damaged directory cannot fill the memory.
const maxManifest = 4 << 20

// Every manifest's file begins with the SHA-256 of what follows it in the file, so that a changed digit is noticed
// where there is no controller that knows better.
const (
	digestHead = "{\n  \"digest\": \""
	digestTail = "\","
)

// EncodeManifest returns a manifest's file.
func EncodeManifest(m *requorumv1.Manifest) ([]byte, error) {
	if err := checkManifest(m); err != nil {
		return nil, err
	}
	data, err := protojson.MarshalOptions{Multiline: true}.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode manifest of %s: %w", m.GetName(), err)
	}
	rest := append(data[1:], '\n')
	return append([]byte(digestHead+digestOf(rest)+digestTail), rest...), nil
}

func digestOf(rest []byte) string {
	sum := sha256.Sum256(rest)
	return hex.EncodeToString(sum[:])
}

// checkDigest returns an error unless a manifest's file is as it was written.
func checkDigest(data []byte) error {
	digest, found := strings.CutPrefix(string(data[:min(len(data), len(digestHead)+hex.EncodedLen(sha256.Size))]), digestHead)
	rest, closed := bytes.CutPrefix(data[min(len(data), len(digestHead)+len(digest)):], []byte(digestTail))
	switch {
	case !found || !closed:
		return errors.New("it does not begin with its digest: it is cut off, damaged or no manifest; distribute the snapshot again to have it written anew")
	case digest != digestOf(rest):
		return errors.New("its digest does not fit: it was changed or is damaged; distribute the snapshot again to have it written anew")
	}
	return nil
}

// DecodeManifest reads a manifest's file. Fields that a newer requorum added are passed over; another
// format version is refused, and so is a file that was changed.
func DecodeManifest(data []byte) (*requorumv1.Manifest, error) {
	if err := checkDigest(data); err != nil {
		return nil, fmt.Errorf("decode manifest: %w", err)
	}
	m := &requorumv1.Manifest{}
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(data, m); err != nil {
		return nil, fmt.Errorf("decode manifest: %w", err)
	}
	if err := checkManifest(m); err != nil {
		return nil, err
	}
	return m, nil
}

func checkManifest(m *requorumv1.Manifest) error {
	if err := names.Check("snapshot", m.GetName()); err != nil {
		return err
	}
	fail := func(format string, args ...any) error {
		return fmt.Errorf("manifest of %s: %s", m.GetName(), fmt.Sprintf(format, args...))
	}
	switch {
	case m.GetFormatVersion() != FormatVersion:
		return fail("format version %d, this requorum knows %d", m.GetFormatVersion(), FormatVersion)
	case m.GetSize() <= 0:
		return fail("size %d", m.GetSize())
	case !isHex(m.GetSha256(), 32):
		return fail("SHA-256 %q is not 64 lower-case hexadecimal digits", m.GetSha256())
	case !isHex(m.GetMd5(), 16):
		return fail("MD5 %q is not 32 lower-case hexadecimal digits", m.GetMd5())
	}
	l := m.GetLocal()
	if l == nil {
		return nil
	}
	switch err := seal.OptionsOf(l).Check(); {
	case err != nil:
		return fail("local: %v", err)
	case l.GetSize() <= 0:
		return fail("local: size %d", l.GetSize())
	case !isHex(l.GetSha256(), 32):
		return fail("local: SHA-256 %q is not 64 lower-case hexadecimal digits", l.GetSha256())
	}
	return nil
}

func isHex(s string, size int) bool {
	raw, err := hex.DecodeString(s)
	return err == nil && len(raw) == size && s == strings.ToLower(s)
}

// FileOf returns what identifies the file that holds the snapshot on nodes: the sealed one, which has no MD5, where the
// copies are sealed.
func FileOf(m *requorumv1.Manifest) Sums {
	if l := m.GetLocal(); l != nil {
		return Sums{Size: l.GetSize(), SHA256: l.GetSha256()}
	}
	return Sums{Size: m.GetSize(), MD5: m.GetMd5(), SHA256: m.GetSha256()}
}

// Manifest returns the manifest of a complete copy. It fails with ErrNotFound if there is no complete
// copy or no manifest beside it.
func (v *Vault) Manifest(name string) (*requorumv1.Manifest, error) {
	if _, err := v.Path(name); err != nil {
		return nil, err
	}
	m, err := readManifest(v.manifestPath(name), name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("manifest of snapshot %s: %w", name, ErrNotFound)
	}
	return m, err
}

// WriteManifest writes a manifest beside a complete copy, replacing the one that is there. It fails with
// ErrNotFound without a complete copy and with a *MismatchError for one of another size; the digests
// are not read again.
func (v *Vault) WriteManifest(m *requorumv1.Manifest) error {
	data, err := EncodeManifest(m)
	if err != nil {
		return err
	}
	path, err := v.Path(m.GetName())
	if err != nil {
		return err
	}
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if info.Size() != FileOf(m).Size {
		got := FileOf(m)
		got.Size = info.Size()
		return &MismatchError{Name: m.GetName(), Want: FileOf(m), Got: got}
	}
	return durable.WriteFile(v.manifestPath(m.GetName()), data, fileMode)
}

// readManifest reads a manifest's file, which must be that of name.
func readManifest(path, name string) (*requorumv1.Manifest, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(f, maxManifest+1))
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("read manifest: %w", err)
	}
	if len(data) > maxManifest {
		return nil, fmt.Errorf("%s: larger than any manifest", path)
	}
	m, err := DecodeManifest(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if m.GetName() != name {
		return nil, fmt.Errorf("%s: is the manifest of %s", path, m.GetName())
	}
	return m, nil
}
