// Package seal compresses and encrypts streams: zstd first, then age, so that
//
//	age -d -i key.txt FILE | zstd -d
//
// opens what Writer has written, without requorum. Either may be left out. Only X25519 recipients are taken: who seals
// cannot open, and there is no passphrase to lose.
package seal

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"filippo.io/age"
	"github.com/klauspost/compress/zstd"
)

// The window bounds what both sides hold in memory; it is what zstd takes by default at its middle levels.
const (
	window      = 2 << 20
	largest     = 128 << 20 // window that a reader takes: what zstd -d takes by default
	ageBuffer   = 64 << 10  // age's own chunk
	maxLevel    = 19
	concurrency = 2
)

// Options say how to seal.
type Options struct {
	Level      int      // of zstd, 1 to 19 as its command has them; 0 for no compression
	Recipients []string // X25519, as age1…; none for no encryption
}

// Sealed is what tells how something is sealed, or is to be.
type Sealed interface {
	GetZstdLevel() int32
	GetRecipients() []string
}

// OptionsOf returns how something is sealed.
func OptionsOf(s Sealed) Options {
	return Options{Level: int(s.GetZstdLevel()), Recipients: s.GetRecipients()}
}

// None tells whether the options neither compress nor encrypt.
func (o Options) None() bool { return o.Level == 0 && len(o.Recipients) == 0 }

// Check returns an error unless the options can be used.
func (o Options) Check() error {
	if o.Level < 0 || o.Level > maxLevel {
		return fmt.Errorf("compression level %d is not between 1 and %d, or 0 for none", o.Level, maxLevel)
	}
	_, err := o.recipients()
	return err
}

func (o Options) recipients() ([]age.Recipient, error) {
	var all []age.Recipient
	for _, text := range o.Recipients {
		r, err := age.ParseX25519Recipient(text)
		if err != nil {
			return nil, fmt.Errorf("recipient %q is not an X25519 public key of age (age1…): %w", text, err)
		}
		all = append(all, r)
	}
	return all, nil
}

// Suffix is what the names of files end in that are sealed so, after the name of what is sealed.
func (o Options) Suffix() string {
	suffix := ""
	if o.Level > 0 {
		suffix += ".zst"
	}
	if len(o.Recipients) > 0 {
		suffix += ".age"
	}
	return suffix
}

// ParseRecipients reads a file of recipients, one a line; lines that begin with # are comments.
func ParseRecipients(data []byte) ([]string, error) {
	var found []string
	for line := range strings.Lines(string(data)) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		found = append(found, line)
	}
	if len(found) == 0 {
		return nil, errors.New("there is no recipient in it")
	}
	return found, Options{Recipients: found}.Check()
}

// layers is a stack of writers: what is written goes through the last one first.
type layers struct {
	io.Writer
	closers []io.Closer
}

// Writer returns a writer that seals into w. Close ends the seal, and leaves w open; without it, nothing can be opened.
func Writer(w io.Writer, o Options) (io.WriteCloser, error) {
	recipients, err := o.recipients()
	if err != nil {
		return nil, err
	}
	l := &layers{Writer: w}
	if len(recipients) > 0 {
		sealed, err := age.Encrypt(w, recipients...)
		if err != nil {
			return nil, fmt.Errorf("encrypt: %w", err)
		}
		buffered := bufio.NewWriterSize(sealed, ageBuffer)
		l.Writer, l.closers = buffered, []io.Closer{flusher{buffered}, sealed}
	}
	if o.Level > 0 {
		packed, err := zstd.NewWriter(l.Writer, zstd.WithEncoderLevel(zstd.EncoderLevelFromZstd(o.Level)), zstd.WithWindowSize(window),
			zstd.WithEncoderConcurrency(concurrency), zstd.WithEncoderCRC(true))
		if err != nil {
			return nil, fmt.Errorf("compress: %w", err)
		}
		l.Writer, l.closers = packed, append([]io.Closer{packed}, l.closers...)
	}
	return l, nil
}

// flusher makes a buffer's Flush a Close.
type flusher struct{ *bufio.Writer }

func (f flusher) Close() error { return f.Flush() }

// Close ends every layer, the innermost first.
func (l *layers) Close() error {
	for _, c := range l.closers {
		if err := c.Close(); err != nil {
			return err
		}
	}
	return nil
}

// ErrNoIdentity says that none of the identities opens what is sealed.
var ErrNoIdentity = errors.New("it is encrypted, and none of the identities given is for it")

// Reader returns a reader of what is sealed in r. identities is the text of key files as age-keygen writes them, and is
// of use only where o has recipients. Damage is an error of Read.
func Reader(r io.Reader, o Options, identities string) (io.ReadCloser, error) {
	if len(o.Recipients) > 0 {
		opened, err := open(r, identities)
		if err != nil {
			return nil, err
		}
		r = opened
	}
	if o.Level == 0 {
		return io.NopCloser(r), nil
	}
	d, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(concurrency), zstd.WithDecoderMaxWindow(largest), zstd.WithDecoderLowmem(true))
	if err != nil {
		return nil, fmt.Errorf("decompress: %w", err)
	}
	return d.IOReadCloser(), nil
}

// Opens tells whether one of the identities is for one of the recipients, so that it opens what was encrypted for them. It
// fails with ErrNoIdentity if not.
func Opens(identities string, recipients []string) error {
	keys, err := ParseIdentities(identities)
	if err != nil {
		return err
	}
	for _, key := range keys {
		k, is := key.(*age.X25519Identity)
		if is && slices.Contains(recipients, k.Recipient().String()) {
			return nil
		}
	}
	return ErrNoIdentity
}

func open(r io.Reader, identities string) (io.Reader, error) {
	keys, err := ParseIdentities(identities)
	if err != nil {
		return nil, err
	}
	opened, err := age.Decrypt(r, keys...)
	if _, none := errors.AsType[*age.NoIdentityMatchError](err); none {
		return nil, ErrNoIdentity
	}
	if err != nil {
		return nil, fmt.Errorf("decrypt: %w", err)
	}
	return opened, nil
}

// ParseIdentities reads the text of key files. What it fails with does not repeat any of it.
func ParseIdentities(text string) ([]age.Identity, error) {
	if strings.TrimSpace(text) == "" {
		return nil, ErrNoIdentity
	}
	keys, err := age.ParseIdentities(bytes.NewReader([]byte(text)))
	if err != nil {
		return nil, fmt.Errorf("%w: it is not a key file of age (age-keygen -o key.txt), with lines such as AGE-SECRET-KEY-1…", ErrNoIdentity)
	}
	return keys, nil
}
