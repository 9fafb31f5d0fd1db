// Package s3 keeps objects in a bucket of Amazon S3, or of a server that speaks its protocol.
//
// An upload is a stream of parts: three of them are on their way while the next one fills, and what is held in memory
// is that, whatever the object's size. A connection that moves nothing in either direction for Config.Stall is given
// up; nothing else limits how long a transfer may take. The client tries again what a part or a request failed with;
// package objectstore's Retry begins a whole object again.
package s3

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/encrypt"

	"github.com/requorum/requorum/internal/objectstore"
)

const (
	partSize = 5 << 20 // the least that S3 takes, for all of them are in memory; it takes at most 10,000: objects are up to 48 GiB
	parallel = 3       // parts on their way
	tries    = 6       // of the client, with pauses of up to a second

	defaultStall = 90 * time.Second
	abortWait    = 15 * time.Second // for a server to clean up after an upload that failed
)

// Config says which bucket, and how to reach it.
type Config struct {
	Endpoint      string // host[:port], or a URL: http:// is plain HTTP. Empty for Amazon's.
	Region        string // empty for us-east-1 at an endpoint that is given
	Bucket        string
	PathStyle     bool        // the bucket in the path also where its name could be in the host's
	CA            []byte      // PEM; trusted besides the system's
	SkipTLSVerify bool        // trust any certificate
	Proxy         string      // URL; empty for what the environment says
	Credentials   Credentials // empty for the standard chain
	// Renew returns fresh keys before Credentials expire, and from time to time where it is not known when they do. Until
	// they have expired a failure costs nothing. nil if the keys stay as they are.
	Renew      func(context.Context) (Credentials, error)
	Encryption string        // of the server: "" for the bucket's default, "s3" or "kms"
	KMSKey     string        // for "kms"; empty for the bucket's default key
	LockMode   string        // "governance" or "compliance"; "" for the bucket's default retention
	LockFor    time.Duration // how long an object is retained
	Stall      time.Duration // how long a connection may be still. Default 90 s.
	Activity   func()        // called whenever something moves; may be nil
}

// Store keeps objects in a bucket.
type Store struct {
	client *minio.Client
	cfg    Config
	name   string
	sse    encrypt.ServerSide
	idle   func()
}

// Open returns the store. It sends nothing yet.
func Open(cfg Config) (*Store, error) {
	host, secure, err := endpoint(cfg.Endpoint)
	s := &Store{cfg: cfg, name: fmt.Sprintf("bucket %s at %s", cfg.Bucket, host)}
	if err == nil {
		s.sse, err = cfg.sse()
	}
	if err != nil {
		return nil, s.invalid(err)
	}
	transport, err := newTransport(s.cfg)
	if err != nil {
		return nil, s.invalid(err)
	}
	if cfg.Region == "" && cfg.Endpoint != "" {
		cfg.Region = "us-east-1"
	}
	lookup := minio.BucketLookupAuto
	if cfg.PathStyle {
		lookup = minio.BucketLookupPath
	}
	s.idle = transport.CloseIdleConnections
	s.client, err = minio.New(host, &minio.Options{
		Creds: s.cfg.provider(), Secure: secure, Transport: transport, Region: cfg.Region, BucketLookup: lookup,
		MaxRetries: tries,
	})
	if err != nil {
		return nil, s.invalid(err)
	}
	return s, nil
}

// endpoint splits an endpoint into host and whether it is spoken to by TLS.
func endpoint(text string) (host string, secure bool, err error) {
	if text == "" {
		return "s3.amazonaws.com", true, nil
	}
	u, err := url.Parse(text)
	if err != nil || u.Host == "" { // host:port alone
		u, err = url.Parse("https://" + text)
	}
	switch {
	case err != nil:
		return "", false, fmt.Errorf("endpoint %q: %w", text, err)
	case u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.Path != "" && u.Path != "/" || u.User != nil || u.RawQuery != "":
		return "", false, fmt.Errorf("endpoint %q is not host:port, or a URL of http or https without more than that", text)
	}
	return u.Host, u.Scheme == "https", nil
}

func (c Config) sse() (encrypt.ServerSide, error) {
	switch {
	case c.LockMode != "" && !minio.RetentionMode(lockMode(c.LockMode)).IsValid():
		return nil, fmt.Errorf("lock mode %q is not governance or compliance", c.LockMode)
	case (c.LockMode == "") != (c.LockFor <= 0):
		return nil, errors.New("an object lock needs both a mode and a time")
	case c.Encryption == "":
		return nil, nil
	case c.Encryption == "s3":
		return encrypt.NewSSE(), nil
	case c.Encryption == "kms":
		return encrypt.NewSSEKMS(c.KMSKey, nil)
	}
	return nil, fmt.Errorf("server-side encryption %q is not s3 or kms", c.Encryption)
}

// Close gives back what the store holds open.
func (s *Store) Close() error {
	s.idle()
	return nil
}

func (s *Store) options() minio.PutObjectOptions {
	o := minio.PutObjectOptions{
		ContentType: "application/octet-stream", PartSize: partSize, NumThreads: parallel, ConcurrentStreamParts: true,
		SendContentMd5: true, // every server knows it, and it is required where objects are locked
	}
	if s.sse != nil {
		o.ServerSideEncryption = s.sse
	}
	if s.cfg.LockMode != "" {
		o.Mode, o.RetainUntilDate = minio.RetentionMode(lockMode(s.cfg.LockMode)), time.Now().Add(s.cfg.LockFor)
	}
	return o
}

// Put implements objectstore.Store.
func (s *Store) Put(ctx context.Context, key string, write func(io.Writer) error) error {
	if err := objectstore.CheckKey(key); err != nil {
		return s.invalid(err)
	}
	from, to := io.Pipe()
	written := make(chan error, 1)
	go func() {
		err := write(to)
		to.CloseWithError(sourceEnd(err))
		written <- err
	}()
	size, err := s.upload(ctx, key, from)
	from.CloseWithError(errStopped)
	source := <-written
	switch {
	case source != nil && !errors.Is(source, errStopped) && ctx.Err() == nil:
		return &objectstore.SourceError{Err: source}
	case err != nil:
		return s.fail(ctx, "write", key, err)
	}
	return s.whole(ctx, key, size)
}

// errStopped ends the writing of an object that the server does not take.
var errStopped = errors.New("the upload has ended")

// errSource tells a source that has failed from one that has ended.
var errSource = errors.New("source")

// sourceEnd keeps a failure of the source from being taken for its end.
func sourceEnd(err error) error {
	if err == nil {
		return io.EOF
	}
	return fmt.Errorf("%w: %w", errSource, err)
}

// upload sends what comes out of from, and tells how many bytes that were. What fits one part is one request.
func (s *Store) upload(ctx context.Context, key string, from io.Reader) (int64, error) {
	head := make([]byte, partSize)
	n, err := io.ReadFull(from, head)
	switch {
	case err == nil:
	case !errors.Is(err, errSource) && (errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)):
		_, err := s.client.PutObject(ctx, s.cfg.Bucket, key, bytes.NewReader(head[:n]), int64(n), s.options())
		return int64(n), err
	default:
		return int64(n), err
	}
	rest := &counter{r: from}
	_, err = s.client.PutObject(ctx, s.cfg.Bucket, key, io.MultiReader(bytes.NewReader(head), rest), -1, s.options())
	if err != nil {
		s.abort(ctx, key)
	}
	return int64(n) + rest.n, err
}

// counter counts what is read.
type counter struct {
	r io.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// abort makes the server forget the parts of an upload that failed, as the client does, whose request is lost where
// ctx has ended. What cannot be removed now is removed by Delete.
func (s *Store) abort(ctx context.Context, key string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), abortWait)
	defer cancel()
	s.client.RemoveIncompleteUpload(ctx, s.cfg.Bucket, key) //nolint:errcheck // Delete does it again, and tells
}

// whole makes sure that the server has all of an object.
func (s *Store) whole(ctx context.Context, key string, size int64) error {
	info, err := s.Stat(ctx, key)
	if err == nil && info.Size != size {
		err = s.fail(ctx, "write", key, fmt.Errorf("%d bytes were sent, the server has %d", size, info.Size))
	}
	return err
}

// Get implements objectstore.Store.
func (s *Store) Get(ctx context.Context, key string, offset int64) (io.ReadCloser, error) {
	if err := objectstore.CheckKey(key); err != nil {
		return nil, s.invalid(err)
	}
	var o minio.GetObjectOptions
	if offset > 0 {
		if err := o.SetRange(offset, 0); err != nil {
			return nil, s.fail(ctx, "read", key, err)
		}
	}
	core := minio.Core{Client: s.client}
	body, info, _, err := core.GetObject(ctx, s.cfg.Bucket, key, o)
	if minio.ToErrorResponse(err).StatusCode == http.StatusRequestedRangeNotSatisfiable { // there is no more of it
		return http.NoBody, nil
	}
	if err != nil {
		return nil, s.fail(ctx, "read", key, err)
	}
	return &reader{ReadCloser: body, ctx: ctx, store: s, key: key, left: info.Size}, nil
}

// reader tells an object that was cut off from one that has ended.
type reader struct {
	io.ReadCloser
	ctx   context.Context
	store *Store
	key   string
	left  int64
}

func (r *reader) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	r.left -= int64(n)
	switch {
	case errors.Is(err, io.EOF) && r.left > 0:
		err = fmt.Errorf("cut off with %d bytes to come: %w", r.left, io.ErrUnexpectedEOF)
		fallthrough
	case err != nil && !errors.Is(err, io.EOF):
		err = r.store.fail(r.ctx, "read", r.key, err)
	}
	return n, err
}

// Stat implements objectstore.Store.
func (s *Store) Stat(ctx context.Context, key string) (objectstore.Info, error) {
	if err := objectstore.CheckKey(key); err != nil {
		return objectstore.Info{}, s.invalid(err)
	}
	info, err := s.client.StatObject(ctx, s.cfg.Bucket, key, minio.StatObjectOptions{})
	if err != nil {
		return objectstore.Info{}, s.fail(ctx, "look at", key, err)
	}
	return objectstore.Info{Key: key, Size: info.Size, Modified: info.LastModified}, nil
}

// List implements objectstore.Store.
func (s *Store) List(ctx context.Context, prefix string) iter.Seq2[objectstore.Info, error] {
	return func(yield func(objectstore.Info, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		for object := range s.client.ListObjectsIter(ctx, s.cfg.Bucket, minio.ListObjectsOptions{Prefix: prefix, Recursive: true}) {
			if object.Err != nil {
				yield(objectstore.Info{}, s.fail(ctx, "list", prefix, object.Err))
				return
			}
			if objectstore.CheckKey(object.Key) != nil {
				continue // nothing of ours
			}
			if !yield(objectstore.Info{Key: object.Key, Size: object.Size, Modified: object.LastModified}, nil) {
				return
			}
		}
	}
}

// Delete implements objectstore.Store. In a bucket with versions the object is hidden; how long its bytes stay is the
// bucket's business.
func (s *Store) Delete(ctx context.Context, key string) error {
	if err := objectstore.CheckKey(key); err != nil {
		return s.invalid(err)
	}
	err := s.client.RemoveObject(ctx, s.cfg.Bucket, key, minio.RemoveObjectOptions{})
	if err != nil && !errors.Is(kind(err), objectstore.ErrNotFound) {
		return s.fail(ctx, "remove", key, err)
	}
	err = s.client.RemoveIncompleteUpload(ctx, s.cfg.Bucket, key)
	if errors.Is(kind(err), objectstore.ErrDenied) { // the object could be removed; to list parts is another permission
		return nil
	}
	return s.fail(ctx, "remove the parts of", key, err)
}
