package remote

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/requorum/requorum/agent/files"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"
	"github.com/requorum/requorum/internal/objectstore"
)

// UploadFiles stores a bundle of the snapshot name as its object says, and returns what is stored. The manifest that
// lists it is Upload's to write. It fails with a *CorruptError, and stores nothing, if data is not the bundle.
func UploadFiles(ctx context.Context, s objectstore.Store, name string, b *requorumv1.Bundle, data []byte, progress func(done int64)) (*requorumv1.StoredObject, error) {
	object := b.GetStored()
	there, err := manifest(ctx, s, manifestKey(object.GetKey(), name))
	if err != nil && !errors.Is(err, objectstore.ErrNotFound) && !isCorrupt(err) {
		return nil, err
	}
	if stored := listed(there, b); stored != nil && whole(ctx, s, stored) {
		return stored, nil
	}
	open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }
	return put(ctx, s, object, b.GetLocal(), plain{name, b.GetSize(), b.GetSha256()}, open, progress)
}

// listed returns what a manifest says of a bundle that is the same, nil if it does not list it.
func listed(m *requorumv1.Manifest, b *requorumv1.Bundle) *requorumv1.StoredObject {
	at := slices.IndexFunc(m.GetBundles(), func(l *requorumv1.Bundle) bool {
		return l.GetNode() == b.GetNode() && l.GetSha256() == b.GetSha256() && l.GetStored().GetKey() == b.GetStored().GetKey()
	})
	if at < 0 {
		return nil
	}
	return m.GetBundles()[at].GetStored()
}

// DownloadFiles returns a bundle, which is small enough for that. It fails with a *CorruptError unless both what is
// stored and what comes out of it are what the manifest says.
func DownloadFiles(ctx context.Context, s objectstore.Store, b *requorumv1.Bundle, identity string, progress func(done int64)) ([]byte, error) {
	if b.GetSize() > files.MaxTar {
		return nil, &CorruptError{Key: b.GetStored().GetKey(), Detail: fmt.Sprintf("no bundle has %d bytes: its manifest is not to be trusted", b.GetSize())}
	}
	var out bytes.Buffer
	err := unpack(ctx, s, b.GetStored(), plain{b.GetStored().GetKey(), b.GetSize(), b.GetSha256()}, identity, &out, progress)
	return out.Bytes(), err
}
