package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/requorum/requorum/controller"
	"github.com/requorum/requorum/controller/remote"
	"github.com/requorum/requorum/internal/loopback"
)

const (
	bucketName = "bench"
	bucketKey  = "requorum-bench"
	bucketPass = "for-this-run-only"
	// Remotes of the controller that are this bucket: as it is without any further setting, and not compressed.
	sealedRemote, plainRemote = "sealed", "plain"
)

// bucket is a bucket of an S3 server, versitygw, that keeps it in a directory. The cluster knows it from the start; the
// server runs only while it is measured.
type bucket struct {
	address string
	dir     string
	server  *exec.Cmd
	client  *minio.Client
}

func newBucket(dir string) (*bucket, error) {
	ports, err := loopback.Ports(1)
	if err != nil {
		return nil, err
	}
	b := &bucket{address: fmt.Sprintf("127.0.0.1:%d", ports[0]), dir: dir}
	if err := os.MkdirAll(filepath.Join(dir, "buckets", bucketName), 0o700); err != nil {
		return nil, err
	}
	keys := fmt.Sprintf("[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n", bucketKey, bucketPass)
	if err := os.WriteFile(b.keysFile(), []byte(keys), 0o600); err != nil {
		return nil, err
	}
	b.client, err = minio.New(b.address, &minio.Options{Creds: credentials.NewStaticV4(bucketKey, bucketPass, ""), Region: "us-east-1"})
	return b, err
}

func (b *bucket) keysFile() string { return filepath.Join(b.dir, "keys") }

// configure tells a controller of the bucket.
func (b *bucket) configure(c *controller.Config) {
	none := 0
	s3 := remote.S3{Endpoint: "http://" + b.address, Bucket: bucketName, CredentialsFile: b.keysFile()}
	c.Remotes = []remote.Config{
		{Name: sealedRemote, Kind: "s3", Folder: sealedRemote, S3: s3},
		{Name: plainRemote, Kind: "s3", Folder: plainRemote, S3: s3, ZstdLevel: &none},
	}
}

// serve starts the server. It returns when the bucket can be used.
func (b *bucket) serve(ctx context.Context, binary string) error {
	log, err := os.OpenFile(filepath.Join(b.dir, "server.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(binary, "--access", bucketKey, "--secret", bucketPass, "--port", b.address, "--quiet", "--health", "/health", "--keep-alive",
		"posix", filepath.Join(b.dir, "buckets"))
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the S3 server: %w", err)
	}
	b.server = cmd
	return b.answers(ctx)
}

// serverPatience is how long the server may take to answer.
const serverPatience = 30 * time.Second

func (b *bucket) answers(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, serverPatience, errors.New("the S3 server does not answer"))
	defer cancel()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+b.address+"/health", http.NoBody)
		if err != nil {
			return err
		}
		resp, err := http.DefaultClient.Do(req)
		if err == nil {
			return resp.Body.Close()
		}
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
}

// stop ends the server, if it runs. What is in the bucket stays.
func (b *bucket) stop() error {
	if b == nil || b.server == nil {
		return nil
	}
	err := b.server.Process.Kill()
	if _, exited := errors.AsType[*exec.ExitError](b.server.Wait()); !exited {
		err = errors.Join(err, errors.New("the S3 server ended by itself"))
	}
	b.server = nil
	return err
}
