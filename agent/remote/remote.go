// Package remote keeps copies of snapshots in object stores.
//
// In the folder of a cluster, a snapshot called pre-1.31 is
//
//	pre-1.31-5f1c09aa.db.zst.age             the file, compressed and encrypted as the name says
//	pre-1.31-5f1c09aa.etcd-1.files.zst.age   the files that the node etcd-1 has added, a tar
//	pre-1.31.json                            its manifest, as beside a copy on a node, with what is stored
//
// The manifest is stored last and removed first: what has no manifest is not a snapshot. The eight digits are of the
// file's SHA-256, so that no upload writes over another's object.
package remote

import (
	"context"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/requorum/requorum/agent/vault"
	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"
	"github.com/requorum/requorum/internal/objectstore"
	"github.com/requorum/requorum/internal/objectstore/dir"
	"github.com/requorum/requorum/internal/objectstore/s3"
	"github.com/requorum/requorum/internal/seal"
)

const (
	manifestSuffix = ".json"
	maxManifest    = 4 << 20
	readBuffer     = 1 << 20
)

// Store is an object store that is closed after use.
type Store interface {
	objectstore.Store
	io.Closer
	// Marker returns what tells a directory from others; empty while there is none, and for other stores.
	Marker() string
}

// Renew tells how to reach a remote now, with fresh keys.
type Renew func(ctx context.Context, name string) (*agentv1.Remote, error)

// Open opens the object store that r describes, with patience for what goes away by itself. renew is asked for keys
// before those in r expire. activity is called whenever something moves, and again before what has failed is tried again.
func Open(r *agentv1.Remote, renew Renew, activity func(), again func(error)) (Store, error) {
	var (
		store  objectstore.Store
		closer io.Closer
		marker = func() string { return "" }
	)
	switch kind := r.GetKind().(type) {
	case *agentv1.Remote_S3:
		bucket, err := openS3(r.GetName(), kind.S3, renew, activity)
		if err != nil {
			return nil, err
		}
		store, closer = bucket, bucket
	case *agentv1.Remote_Dir:
		d, err := dir.Open(kind.Dir.GetPath(), kind.Dir.GetMarker())
		if err != nil {
			return nil, err
		}
		store, closer, marker = d, d, d.Marker
	default:
		return nil, fmt.Errorf("remote %s is of a kind that this agent does not know: upgrade it", r.GetName())
	}
	return patient{Store: objectstore.Retry(store, objectstore.Patience{Notify: again}), Closer: closer, marker: marker}, nil
}

type patient struct {
	objectstore.Store
	io.Closer
	marker func() string
}

func (p patient) Marker() string { return p.marker() }

func openS3(name string, r *agentv1.S3Remote, renew Renew, activity func()) (*s3.Store, error) {
	again := func(ctx context.Context) (s3.Credentials, error) {
		fresh, err := renew(ctx, name)
		if err != nil {
			return s3.Credentials{}, fmt.Errorf("fresh keys for remote %s from the controller: %w", name, err)
		}
		return keys(fresh.GetS3()), nil
	}
	return s3.Open(s3.Config{
		Endpoint: r.GetEndpoint(), Region: r.GetRegion(), Bucket: r.GetBucket(), PathStyle: r.GetPathStyle(), CA: r.GetCa(),
		SkipTLSVerify: r.GetSkipTlsVerify(), Proxy: r.GetProxy(),
		Credentials: keys(r), Renew: again,
		Encryption: r.GetEncryption(), KMSKey: r.GetKmsKey(), LockMode: r.GetLockMode(), LockFor: r.GetLockFor().AsDuration(),
		Activity: activity,
	})
}

// keys returns the keys that the controller has given, none if the node is to find some.
func keys(r *agentv1.S3Remote) s3.Credentials {
	c := s3.Credentials{AccessKey: r.GetAccessKey(), SecretKey: r.GetSecretKey(), SessionToken: r.GetSessionToken()}
	if r.GetKeysExpire() != nil {
		c.Expires = r.GetKeysExpire().AsTime()
	}
	return c
}

// CorruptError says that what is stored, or what was to be, is not what it should be.
type CorruptError struct{ Key, Detail string }

func (e *CorruptError) Error() string { return fmt.Sprintf("%s: %s", e.Key, e.Detail) }

// TakenError refuses to store a snapshot under a name that the remote has for another one.
type TakenError struct{ Name, Key string }

func (e *TakenError) Error() string {
	return fmt.Sprintf("the remote holds another snapshot named %s (%s)", e.Name, e.Key)
}

// manifestKey is that of the manifest beside an object.
func manifestKey(objectKey, name string) string {
	return path.Join(path.Dir(objectKey), name+manifestSuffix)
}

// Upload stores the file that open opens, then its manifest, and returns what is stored. Where the manifest says that nodes
// hold an encrypted file, it is that one, and is stored as it is. It fails with a *CorruptError, and stores nothing, if what
// open opens is not that file, and with a *TakenError for a name that is taken. Of an upload that is done already it only
// makes sure that it is whole, and that its manifest lists the same bundles.
func Upload(ctx context.Context, s objectstore.Store, m *requorumv1.Manifest, object *requorumv1.StoredObject, open func() (io.ReadCloser, error), progress func(done int64)) (*requorumv1.StoredObject, error) {
	there, err := manifest(ctx, s, manifestKey(object.GetKey(), m.GetName()))
	switch {
	case err == nil && (there.GetSha256() != m.GetSha256() || there.GetStored().GetKey() != object.GetKey()):
		return nil, &TakenError{Name: m.GetName(), Key: there.GetStored().GetKey()}
	case err == nil && whole(ctx, s, there.GetStored()):
		return there.GetStored(), describe(ctx, s, m, there)
	case err != nil && !errors.Is(err, objectstore.ErrNotFound) && !isCorrupt(err):
		return nil, err
	}
	stored, err := put(ctx, s, object, m.GetLocal(), plain{m.GetName(), m.GetSize(), m.GetSha256()}, open, progress)
	if err != nil {
		return nil, err
	}
	return stored, writeManifest(ctx, s, m, stored)
}

// describe makes the manifest of a snapshot that is there list the bundles that m lists.
func describe(ctx context.Context, s objectstore.Store, m, there *requorumv1.Manifest) error {
	if slices.EqualFunc(m.GetBundles(), there.GetBundles(), func(a, b *requorumv1.Bundle) bool { return proto.Equal(a, b) }) {
		return nil
	}
	return writeManifest(ctx, s, m, there.GetStored())
}

func writeManifest(ctx context.Context, s objectstore.Store, m *requorumv1.Manifest, stored *requorumv1.StoredObject) error {
	described := proto.CloneOf(m)
	described.Stored = stored
	data, err := vault.EncodeManifest(described)
	if err != nil {
		return err
	}
	return s.Put(ctx, manifestKey(stored.GetKey(), m.GetName()), func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	})
}

// plain is what has to come out of an object.
type plain struct {
	name   string
	size   int64
	sha256 string
}

func isCorrupt(err error) bool {
	_, corrupt := errors.AsType[*CorruptError](err)
	return corrupt
}

// whole tells whether an object is there in full.
func whole(ctx context.Context, s objectstore.Store, o *requorumv1.StoredObject) bool {
	info, err := s.Stat(ctx, o.GetKey())
	return err == nil && info.Size == o.GetSize()
}

// put stores what open opens, and returns what is stored. It is sealed as object says; what is encrypted already, as local
// says, stays as it is.
func put(ctx context.Context, s objectstore.Store, object, local *requorumv1.StoredObject, want plain, open func() (io.ReadCloser, error), progress func(int64)) (*requorumv1.StoredObject, error) {
	stored, o := proto.CloneOf(object), seal.OptionsOf(object)
	if len(local.GetRecipients()) > 0 {
		want.size, want.sha256, o = local.GetSize(), local.GetSha256(), seal.Options{}
		stored.ZstdLevel, stored.Recipients = local.GetZstdLevel(), local.GetRecipients()
	}
	err := s.Put(ctx, object.GetKey(), func(w io.Writer) error {
		out := seal.NewMeter(w)
		file, err := open()
		if err != nil {
			return err
		}
		if err := pack(ctx, out, want, o, file, progress); err != nil {
			return err
		}
		stored.Size, stored.Sha256 = out.Size(), out.SHA256()
		return nil
	})
	return stored, err
}

// pack seals the file into w while it makes sure that it is the wanted one, and closes it.
func pack(ctx context.Context, w io.Writer, want plain, o seal.Options, file io.ReadCloser, progress func(int64)) error {
	sealing, err := seal.Writer(w, o)
	if err != nil {
		return errors.Join(err, file.Close())
	}
	in := seal.NewMeter(sealing)
	in.Moved = progress
	_, err = io.CopyBuffer(in, struct{ io.Reader }{&ending{ctx, file}}, make([]byte, readBuffer))
	if err == nil {
		err = sealing.Close()
	}
	if err = errors.Join(err, file.Close()); err != nil {
		return err
	}
	if in.Size() != want.size || in.SHA256() != want.sha256 {
		return &CorruptError{Key: want.name, Detail: fmt.Sprintf("the copy on this node is not the file of its manifest: %d bytes with the SHA-256 %s", in.Size(), in.SHA256())}
	}
	return nil
}

// ending ends reading with a context.
type ending struct {
	ctx context.Context
	r   io.Reader
}

func (e *ending) Read(p []byte) (int, error) {
	if e.ctx.Err() != nil {
		return 0, context.Cause(e.ctx)
	}
	return e.r.Read(p)
}

// Download writes the file of a snapshot into w. It fails with a *CorruptError unless both what is stored and what comes
// out of it are what the manifest says, in size, MD5 and SHA-256. What was written by then is of no use.
func Download(ctx context.Context, s objectstore.Store, m *requorumv1.Manifest, identity string, w io.Writer, progress func(done int64)) error {
	sumMD5 := md5.New()
	err := unpack(ctx, s, m.GetStored(), plain{m.GetName(), m.GetSize(), m.GetSha256()}, identity, io.MultiWriter(w, sumMD5), progress)
	if err == nil && hex.EncodeToString(sumMD5.Sum(nil)) != m.GetMd5() {
		err = notThat(m.GetStored())
	}
	return err
}

// DownloadSealed writes an object into w as it is. It fails with a *CorruptError unless that is what was stored.
func DownloadSealed(ctx context.Context, s objectstore.Store, o *requorumv1.StoredObject, w io.Writer, progress func(done int64)) error {
	as := &requorumv1.StoredObject{Key: o.GetKey(), Size: o.GetSize(), Sha256: o.GetSha256()}
	return unpack(ctx, s, as, plain{o.GetKey(), o.GetSize(), o.GetSha256()}, "", w, progress)
}

func notThat(o *requorumv1.StoredObject) error {
	return &CorruptError{Key: o.GetKey(), Detail: "what came out of it is not the file of its manifest"}
}

// unpack opens an object into w, and fails unless both it and what comes out of it are what they should be.
func unpack(ctx context.Context, s objectstore.Store, o *requorumv1.StoredObject, want plain, identity string, w io.Writer, progress func(done int64)) (err error) {
	body, err := s.Get(ctx, o.GetKey(), 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, body.Close()) }()
	stored := seal.NewMeter(io.Discard)
	in := io.TeeReader(body, stored)
	opened, err := seal.Reader(in, seal.OptionsOf(o), identity)
	if err != nil && !errors.Is(err, seal.ErrNoIdentity) {
		return unreadable(o, err)
	}
	if err != nil {
		return err
	}
	out := seal.NewMeter(w)
	out.Moved = progress
	_, err = io.CopyBuffer(out, io.LimitReader(opened, want.size+1), make([]byte, readBuffer)) // a bomb does not fill the disk
	if err = errors.Join(err, opened.Close()); err != nil {
		return unreadable(o, err)
	}
	if _, err := io.Copy(io.Discard, in); err != nil {
		return err
	}
	switch {
	case stored.Size() != o.GetSize() || stored.SHA256() != o.GetSha256():
		return &CorruptError{Key: o.GetKey(), Detail: fmt.Sprintf("what is stored was changed: %d bytes with the SHA-256 %s, %d with %s were stored", stored.Size(), stored.SHA256(), o.GetSize(), o.GetSha256())}
	case out.Size() != want.size || out.SHA256() != want.sha256:
		return notThat(o)
	}
	return nil
}

// unreadable tells a failure of the store or of the disk from an object that cannot be opened.
func unreadable(o *requorumv1.StoredObject, err error) error {
	_, ofStore := errors.AsType[*objectstore.Error](err)
	_, ofDisk := errors.AsType[*vault.NoSpaceError](err)
	if ofStore || ofDisk || errors.Is(err, context.Canceled) || errors.Is(err, vault.ErrEnded) {
		return err
	}
	return &CorruptError{Key: o.GetKey(), Detail: fmt.Sprintf("it cannot be opened: %v", err)}
}

// Drop removes a snapshot: its manifest first, unless that describes another object, then its bundles and the object.
func Drop(ctx context.Context, s objectstore.Store, name, key string, bundles ...string) error {
	there, err := manifest(ctx, s, manifestKey(key, name))
	switch {
	case err == nil && there.GetStored().GetKey() != key: // another snapshot's
	case err != nil && !errors.Is(err, objectstore.ErrNotFound) && !isCorrupt(err):
		return err
	default:
		if err := s.Delete(ctx, manifestKey(key, name)); err != nil {
			return err
		}
	}
	for _, b := range bundles {
		if err := s.Delete(ctx, b); err != nil {
			return err
		}
	}
	return s.Delete(ctx, key)
}

// manifest reads a manifest. It fails with a *CorruptError if that is none.
func manifest(ctx context.Context, s objectstore.Store, key string) (*requorumv1.Manifest, error) {
	body, err := s.Get(ctx, key, 0)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(body, maxManifest))
	if err = errors.Join(err, body.Close()); err != nil {
		return nil, err
	}
	m, err := vault.DecodeManifest(data)
	switch {
	case err != nil:
		return nil, &CorruptError{Key: key, Detail: err.Error()}
	case m.GetName()+manifestSuffix != path.Base(key), !beside(key, m.GetStored()):
		return nil, &CorruptError{Key: key, Detail: fmt.Sprintf("it is the manifest of %s, stored as %q", m.GetName(), m.GetStored().GetKey())}
	}
	for _, b := range m.GetBundles() {
		if !beside(key, b.GetStored()) {
			return nil, &CorruptError{Key: key, Detail: fmt.Sprintf("it lists files of %s, stored as %q", b.GetNode(), b.GetStored().GetKey())}
		}
	}
	return m, nil
}

// beside tells whether an object is in the folder of a manifest.
func beside(manifest string, o *requorumv1.StoredObject) bool {
	return objectstore.CheckKey(o.GetKey()) == nil && path.Dir(o.GetKey()) == path.Dir(manifest)
}

// List returns what a remote holds in a folder: of one snapshot, or of all if name is empty.
func List(ctx context.Context, s objectstore.Store, folder, name string) (*agentv1.RemoteList, error) {
	if name != "" {
		m, err := manifest(ctx, s, path.Join(folder, name+manifestSuffix))
		if errors.Is(err, objectstore.ErrNotFound) {
			return &agentv1.RemoteList{}, nil
		}
		if err != nil {
			return nil, err
		}
		return &agentv1.RemoteList{Manifests: []*requorumv1.Manifest{m}}, nil
	}
	found, objects := &agentv1.RemoteList{}, map[string]int64{}
	for info, err := range s.List(ctx, strings.TrimSuffix(folder, "/")+"/") {
		if err != nil {
			return nil, err
		}
		if !strings.HasSuffix(info.Key, manifestSuffix) {
			objects[info.Key] = info.Size
			continue
		}
		m, err := manifest(ctx, s, info.Key)
		switch {
		case isCorrupt(err):
			fault(found, strings.TrimSuffix(path.Base(info.Key), manifestSuffix), requorumv1.CopyState_COPY_STATE_UNREADABLE, err.Error())
		case errors.Is(err, objectstore.ErrNotFound): // removed meanwhile
		case err != nil:
			return nil, err
		default:
			found.Manifests = append(found.Manifests, m)
		}
	}
	compare(found, objects)
	return found, nil
}

// compare tells which manifests are not of what is stored, and which objects no manifest describes.
func compare(found *agentv1.RemoteList, objects map[string]int64) {
	found.Manifests = slices.DeleteFunc(found.Manifests, func(m *requorumv1.Manifest) bool {
		for _, b := range m.GetBundles() {
			if size, there := objects[b.GetStored().GetKey()]; !there || size != b.GetStored().GetSize() {
				found.Problems = append(found.Problems, fmt.Sprintf("%s: the files of %s, %s, are gone, or not as they were stored", m.GetName(), b.GetNode(), b.GetStored().GetKey()))
			}
			delete(objects, b.GetStored().GetKey())
		}
		o := m.GetStored()
		size, there := objects[o.GetKey()]
		delete(objects, o.GetKey())
		switch {
		case !there:
			fault(found, m.GetName(), requorumv1.CopyState_COPY_STATE_MISSING, fmt.Sprintf("%s: its object %s is gone", m.GetName(), o.GetKey()))
		case size != o.GetSize():
			fault(found, m.GetName(), requorumv1.CopyState_COPY_STATE_DIFFERENT, fmt.Sprintf("%s: its object %s has %d bytes, %d were stored", m.GetName(), o.GetKey(), size, o.GetSize()))
		default:
			return false
		}
		return true
	})
	found.Orphans = slices.Sorted(maps.Keys(objects))
}

func fault(found *agentv1.RemoteList, name string, state requorumv1.CopyState, detail string) {
	found.Problems = append(found.Problems, detail)
	found.Faults = append(found.Faults, &agentv1.RemoteFault{Name: name, State: state, Detail: detail})
}
