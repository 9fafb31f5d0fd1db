package cli

import (
	"context"
	"crypto/md5"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/cmd/requorum/cli/live"
	"github.com/requorum/requorum/cmd/requorum/cli/output"
	"github.com/requorum/requorum/internal/durable"
	"github.com/requorum/requorum/internal/seal"
)

type exportFlags struct {
	cluster, node, file, identity string
	overwrite                     bool
}

func (p *program) snapshotExport() *cobra.Command {
	f := &exportFlags{}
	command := &cobra.Command{
		Use:   "export NAME --file PATH",
		Short: "Copy a snapshot's file to this machine",
		Long: `Copy a snapshot's file to this machine. It is written to PATH.part, compared
with the manifest's size, MD5 and SHA-256 as it comes, and only then named PATH.
The file can be used with etcdutl as it is. It holds secrets: its mode is 0600.
NAME may be latest.

What is compressed or encrypted on the nodes is opened on this machine, as it
comes. For that, an encrypted one needs --identity: the key stays here. Without
it the encrypted file is written, which age -d and zstd -d open.`,
		Example:           "  requorum snapshot export pre-1.31 --file /mnt/usb/prod.db\n  requorum snapshot export pre-1.31 --file /mnt/usb/prod.db --identity key.txt",
		Args:              takes("NAME"),
		ValidArgsFunction: firstArgument(p.completeSnapshots),
		RunE: func(c *cobra.Command, args []string) error {
			return p.with(c.Context(), func(ctx context.Context, c *client) error { return p.export(ctx, c, f, args[0]) })
		},
	}
	p.clusterFlag(command, &f.cluster)
	flags := command.Flags()
	flags.StringVar(&f.file, "file", "", "`PATH` to write to")
	flags.StringVar(&f.node, "node", "", "`NODE` to read from (default any with a good copy)")
	identityFlag(flags, &f.identity)
	flags.BoolVar(&f.overwrite, "overwrite", false, "replace the file if it is there")
	complete(command, "node", p.completeNodes)
	required(command, "file")
	return command
}

func (p *program) export(ctx context.Context, c *client, f *exportFlags, name string) error {
	if err := mayWrite(f.file, f.overwrite); err != nil {
		return err
	}
	identity, err := readIdentity(f.identity)
	if err != nil {
		return err
	}
	cluster, err := c.clusterOr(ctx, f.cluster)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stream, err := c.ExportSnapshot(ctx, &requorumv1.ExportSnapshotRequest{Cluster: cluster, Name: name, Node: f.node})
	if err != nil {
		return err
	}
	d := &download{stream: stream, stall: p.stall, cancel: cancel, ctx: ctx, identity: identity, md5: md5.New(), sha256: sha256.New()}
	if err := d.open(); err != nil {
		return fmt.Errorf("export %s: %w", name, err)
	}
	if err := p.download(d, f); err != nil {
		return fmt.Errorf("export %s to %s: %w", name, f.file, err)
	}
	return p.exported(d, f.file)
}

// download saves the file, with a line of progress on a terminal.
func (p *program) download(d *download, f *exportFlags) error {
	if term, ok := p.terminal(); ok && p.settings.format == output.Table {
		line := live.NewTransfer(p.out, term, p.now, d.manifest.GetName())
		d.progress = line.Show
		defer line.Close()
	}
	return d.save(f.file, f.overwrite)
}

func (p *program) exported(d *download, path string) error {
	m := d.manifest
	if p.settings.format != output.Table {
		return output.Message(p.out, p.settings.format, &requorumv1.ExportSnapshotResponse{Part: &requorumv1.ExportSnapshotResponse_Manifest{Manifest: m}})
	}
	if d.asSealed() {
		_, err := fmt.Fprintf(p.out, "Snapshot %s of %s is in %s, encrypted for %s: %s\n  SHA-256  %s\n",
			output.Clean(m.GetName()), output.Clean(m.GetCluster()), path, output.Clean(strings.Join(m.GetLocal().GetRecipients(), ", ")), output.Bytes(m.GetLocal().GetSize()), output.Clean(m.GetLocal().GetSha256()))
		return err
	}
	_, err := fmt.Fprintf(p.out, "Snapshot %s of %s is in %s: %s, revision %s\n  MD5      %s\n  SHA-256  %s\n",
		output.Clean(m.GetName()), output.Clean(m.GetCluster()), path, output.Bytes(m.GetSize()), p.number(m.GetRevision()), output.Clean(m.GetMd5()), output.Clean(m.GetSha256()))
	return err
}

// mayWrite refuses early what would be refused after the transfer.
func mayWrite(path string, overwrite bool) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return usagef("%s is not a file; give the path of the file to write", path)
	case !overwrite:
		return advised(fmt.Errorf("%s is there already: %w", path, fs.ErrExist), "nothing was written; give another --file, or --overwrite to replace it")
	}
	return nil
}

// download receives a snapshot and compares it with its manifest as it comes.
type download struct {
	stream   grpc.ServerStreamingClient[requorumv1.ExportSnapshotResponse]
	stall    time.Duration
	ctx      context.Context // of the stream; its cause says that the stream stood still
	cancel   context.CancelCauseFunc
	manifest *requorumv1.Manifest
	identity string // that opens it; may be empty
	md5      hash.Hash
	sha256   hash.Hash
	size     int64
	progress func(done, total int64) // may be nil
}

// next returns the stream's next part, and fails if none comes for as long as the stream may stand still.
func (d *download) next() (*requorumv1.ExportSnapshotResponse, error) {
	stalled := fmt.Errorf("nothing came for %s", d.stall)
	timer := time.AfterFunc(d.stall, func() { d.cancel(stalled) })
	defer timer.Stop()
	part, err := d.stream.Recv()
	if err != nil && errors.Is(context.Cause(d.ctx), stalled) {
		return nil, stalled
	}
	return part, err
}

// open receives the manifest, which comes first.
func (d *download) open() error {
	first, err := d.next()
	if errors.Is(err, io.EOF) {
		return errors.New("the controller sent nothing")
	}
	if err != nil {
		return err
	}
	if d.manifest = first.GetManifest(); d.manifest == nil {
		return errors.New("the controller did not send the manifest first")
	}
	return nil
}

// save writes the file at path, or nothing at all.
func (d *download) save(path string, overwrite bool) error {
	free, err := durable.FreeBytes(filepath.Dir(path))
	if err != nil {
		return err
	}
	if free < uint64(d.manifest.GetSize()) {
		return advised(fmt.Errorf("%s free, %s needed", output.Bytes(int64(free)), output.Bytes(d.manifest.GetSize())), "nothing was written; free space there or give another --file")
	}
	part, err := createPart(path, overwrite)
	if err != nil {
		return err
	}
	err = d.write(part)
	if err == nil {
		err = part.Sync()
	}
	err = errors.Join(err, part.Close())
	if err == nil {
		err = publish(part.Name(), path, overwrite)
	}
	if err != nil {
		return errors.Join(err, durable.Remove(part.Name()))
	}
	return nil
}

// createPart makes the partial file. One that is there belongs to another export, or was left by one that was killed.
func createPart(path string, overwrite bool) (*os.File, error) {
	name := path + durable.PartSuffix
	if overwrite {
		if err := durable.Remove(name); err != nil {
			return nil, err
		}
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil, advised(fmt.Errorf("%s is there already", name), "another export to it may be running; if none is, remove it or give --overwrite")
	}
	return f, err
}

// asSealed tells whether the file is written as it comes, because it is encrypted and no identity was given.
func (d *download) asSealed() bool {
	return len(d.manifest.GetLocal().GetRecipients()) > 0 && d.identity == ""
}

// comes is the size of what the stream brings.
func (d *download) comes() int64 {
	if l := d.manifest.GetLocal(); l != nil {
		return l.GetSize()
	}
	return d.manifest.GetSize()
}

// write receives the file, opens it if it is sealed, and compares it.
func (d *download) write(to io.Writer) error {
	l := d.manifest.GetLocal()
	switch {
	case l == nil:
		if err := d.receive(io.MultiWriter(to, d.md5, d.sha256)); err != nil {
			return err
		}
		return d.compare(d.size, d.manifest.GetSize(), sums{"MD5", d.manifest.GetMd5(), d.md5}, sums{"SHA-256", d.manifest.GetSha256(), d.sha256})
	case d.asSealed():
		if err := d.receive(io.MultiWriter(to, d.sha256)); err != nil {
			return err
		}
		return d.compare(d.size, l.GetSize(), sums{"SHA-256", l.GetSha256(), d.sha256})
	}
	return d.unseal(to, l)
}

// unseal opens the file as it comes.
func (d *download) unseal(to io.Writer, l *requorumv1.StoredObject) error {
	in, out := io.Pipe()
	stored := sha256.New()
	came := make(chan error, 1)
	go func() {
		err := d.receive(io.MultiWriter(out, stored))
		came <- err
		out.CloseWithError(err)
	}()
	written, err := unseal(io.MultiWriter(to, d.md5, d.sha256), in, l, d.identity, d.manifest.GetSize())
	in.CloseWithError(err)
	if failed := <-came; failed != nil && err == nil {
		err = failed
	}
	if err != nil {
		return err
	}
	return errors.Join(
		d.compare(d.size, l.GetSize(), sums{"SHA-256", l.GetSha256(), stored}),
		d.compare(written, d.manifest.GetSize(), sums{"MD5", d.manifest.GetMd5(), d.md5}, sums{"SHA-256", d.manifest.GetSha256(), d.sha256}))
}

// unseal opens in into out, of which size bytes are expected, and reads all of it.
func unseal(out io.Writer, in io.Reader, l *requorumv1.StoredObject, identity string, size int64) (int64, error) {
	r, err := seal.Reader(in, seal.OptionsOf(l), identity)
	if err != nil {
		return 0, err
	}
	n, err := io.Copy(out, io.LimitReader(r, size+1))
	if err == nil {
		_, err = io.Copy(io.Discard, in)
	}
	return n, errors.Join(err, r.Close())
}

// receive writes what comes.
func (d *download) receive(out io.Writer) error {
	for {
		part, err := d.next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("after %s: %w", output.Of(d.size, d.comes()), err)
		}
		n, err := out.Write(part.GetData())
		if err != nil {
			return err
		}
		if d.size += int64(n); d.size > d.comes() {
			return fmt.Errorf("more than the %d bytes of the manifest came", d.comes())
		}
		if d.progress != nil {
			d.progress(d.size, d.comes())
		}
	}
}

// sums is a digest and what it should be.
type sums struct {
	name, want string
	hash       hash.Hash
}

// compare refuses what is not the file that the manifest describes.
func (d *download) compare(came, size int64, all ...sums) error {
	if came != size {
		return fmt.Errorf("the stream ended after %d of %d bytes", came, size)
	}
	for _, sum := range all {
		if got := hex.EncodeToString(sum.hash.Sum(nil)); got != sum.want {
			return advised(fmt.Errorf("the file that came has %s %s, the manifest says %s", sum.name, got, sum.want),
				"nothing was kept; requorum snapshot check tells which node's copy is damaged, --node reads from another")
		}
	}
	return nil
}

// publish gives the finished file its name. Without overwrite a file that appeared meanwhile is kept.
func publish(part, path string, overwrite bool) error {
	if overwrite {
		return durable.Rename(part, path)
	}
	err := unix.Renameat2(unix.AT_FDCWD, part, unix.AT_FDCWD, path, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
		// The file system cannot do it in one step.
		if err := mayWrite(path, false); err != nil {
			return err
		}
		return durable.Rename(part, path)
	}
	if err != nil {
		return fmt.Errorf("name the file %s: %w", path, err)
	}
	return durable.SyncDir(filepath.Dir(path))
}
