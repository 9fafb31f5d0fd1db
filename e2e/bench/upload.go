package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/minio/minio-go/v7"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"
)

const (
	uploaderMemory = 128 << 20
	byClient       = "etcdctl snapshot save, then FPutObject of minio-go"
)

// stored is how long it took to store a snapshot in a bucket, in seconds, by round.
type stored struct {
	whole  []float64 // from the command to its end
	direct []float64 // what one node does: the steps save and upload
	upload []float64 // the step upload
}

// upload measures a snapshot until a bucket has it, beside what people do today: etcdctl, then a client of S3.
func upload(ctx context.Context, r *Report, b *Bed) (err error) {
	binary, err := r.buildS3(ctx)
	if err != nil {
		return err
	}
	if err := b.bucket.serve(ctx, binary); err != nil {
		return errors.Join(err, b.bucket.stop())
	}
	defer func() { err = errors.Join(err, b.bucket.stop()) }()
	var sealed, plain, base stored
	for round := range r.Settings.Rounds {
		measures := []func() error{
			func() error { return b.uploadOurs(ctx, sealedRemote, round, &sealed) },
			func() error { return b.uploadByTool(ctx, &base) },
			func() error { return b.uploadOurs(ctx, plainRemote, round, &plain) },
		}
		for i := range measures {
			b.Settle()
			if err := measures[(i+round)%len(measures)](); err != nil {
				return err
			}
			if err := b.Clean(ctx); err != nil {
				return err
			}
		}
	}
	b.addUploads(sealed, plain, base)
	return b.uploadMemory(ctx)
}

func (b *Bed) addUploads(sealed, plain, base stored) {
	row := Row{Section: "upload", What: "save and upload of a snapshot, by the node that does both", Size: b.Size, Unit: "s"}
	row.Note = "The steps save and upload, compressed by zstd 3 as is the default. In between the other nodes get their copies and all are read back."
	b.r.Add(compare(row, byClient, 1, sealed.direct, base.whole))
	row.Note = ""
	row.What = "the same, not compressed"
	b.r.Add(compare(row, byClient, 0, plain.direct, base.whole))
	row.What = "snapshot save until ready on three nodes and in a bucket"
	b.r.Add(compare(row, byClient, 1, sealed.whole, base.whole))
	row.What = "upload alone, compressed"
	b.r.Add(compare(row, "FPutObject of minio-go", 0, sealed.upload, base.upload))
	row.What = "upload alone, not compressed"
	b.r.Add(compare(row, "FPutObject of minio-go", 0, plain.upload, base.upload))
}

func (b *Bed) uploadOurs(ctx context.Context, remote string, round int, to *stored) error {
	begun := time.Now()
	op, err := b.save(ctx, fmt.Sprintf("upload-%d", round), "--remote", remote)
	if err != nil {
		return err
	}
	whole, at := time.Since(begun).Seconds(), steps(op)
	to.add(whole, at["save"].seconds()+at["upload"].seconds(), at["upload"].seconds())
	b.r.Say("  requorum snapshot save --remote %s: %.2f s; %s", remote, whole, tell(op))
	return nil
}

func (s *stored) add(whole, direct, upload float64) {
	s.whole, s.direct, s.upload = append(s.whole, whole), append(s.direct, direct), append(s.upload, upload)
}

// uploadByTool saves by etcdctl, and uploads the file as a program with an S3 client does.
func (b *Bed) uploadByTool(ctx context.Context, to *stored) error {
	m, err := b.follower(ctx)
	if err != nil {
		return err
	}
	path := filepath.Join(b.dir, "tool.db")
	begun := time.Now()
	if _, err := commandCPU(ctx, b.r.Settings.Etcdctl, "--endpoints="+m.clientURL, "snapshot", "save", path); err != nil {
		return err
	}
	saved := time.Now()
	if _, err := b.bucket.client.FPutObject(ctx, bucketName, "tool.db", path, minio.PutObjectOptions{}); err != nil {
		return fmt.Errorf("upload by minio-go: %w", err)
	}
	whole, put := time.Since(begun).Seconds(), time.Since(saved).Seconds()
	to.add(whole, whole, put)
	b.r.Say("  %s: %.2f s, of which the upload %.2f s", byClient, whole, put)
	return errors.Join(os.Remove(path), b.bucket.client.RemoveObject(ctx, bucketName, "tool.db", minio.RemoveObjectOptions{}))
}

// uploadMemory measures what the agent that uploads has in memory, after it was started anew.
func (b *Bed) uploadMemory(ctx context.Context) error {
	if err := b.freshAgents(ctx); err != nil {
		return err
	}
	watch, err := b.watch(ctx, func(ctx context.Context) (*requorumv1.Operation, error) {
		return b.save(ctx, "upload-memory", "--remote", sealedRemote)
	})
	if err != nil {
		return err
	}
	op := watch.op
	node, during := nodeOf(op, "upload"), steps(op)["upload"]
	idle := watch.idle(node)
	peak, looked := watch.Peak(node, during.from, during.to)
	if !looked {
		return fmt.Errorf("the upload of operation %s was too short to be watched", op.GetId())
	}
	row := Row{Section: "upload", Size: b.Size, Unit: "bytes"}
	row.What, row.Measured, row.Target = "all memory of the agent that uploads, mapped files included", float64(peak.RSS), uploaderMemory
	b.r.Add(row)
	row.What, row.Measured, row.Target = "memory of an agent that uploads", float64(peak.Above(idle).Anon), ownMemory
	b.r.Add(row)
	return b.Clean(ctx)
}
