package task

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	"github.com/requorum/requorum/internal/etcdfile"
)

const pushChunk = 256 << 10

// save streams a snapshot of the running member into the vault. A complete file without a manifest is
// what an earlier try of the same task left.
func (n *Node) save(ctx context.Context, spec *agentv1.SaveCopy, p *Progress) (*agentv1.TaskResult, error) {
	if err := n.vacate(spec.GetName()); err != nil {
		return nil, err
	}
	m, err := n.Member(ctx)
	if err != nil {
		return nil, err
	}
	total := m.Status(ctx).GetDbSize()
	w, err := n.Vault.Create(spec.GetName())
	if err != nil {
		return nil, err
	}
	if err := w.Expect(total); err != nil {
		return nil, errors.Join(err, w.Discard())
	}
	created := time.Now()
	stream, version, err := m.Snapshot(ctx)
	if err != nil {
		return nil, errors.Join(err, w.Discard())
	}
	defer stream.Close()
	if _, err := io.Copy(&counted{w: w, total: total, p: p}, stream); err != nil {
		return nil, errors.Join(fmt.Errorf("snapshot stream of the member: %w", err), w.Discard())
	}
	if !w.Facts().GetHasTrailer() {
		return nil, errors.Join(errors.New("the member's snapshot stream was cut off: it does not end in its SHA-256"), w.Discard())
	}
	facts, err := w.Commit()
	if err != nil {
		return nil, err
	}
	facts.EtcdVersion, facts.Created = version, timestamppb.New(created)
	return &agentv1.TaskResult{Result: &agentv1.TaskResult_Copy{Copy: facts}}, nil
}

// vacate removes what an earlier try left under a name, and refuses a name that stands for a snapshot.
func (n *Node) vacate(name string) error {
	if m, err := n.Vault.Manifest(name); err == nil {
		return &Refused{
			Message: fmt.Sprintf("this node keeps a snapshot %s already, taken %s", name, m.GetCreated().AsTime().Format(time.RFC3339)),
			Advice:  "choose another name",
		}
	}
	return n.Vault.Drop(name)
}

// counted counts what passes.
type counted struct {
	w           io.Writer
	done, total int64
	p           *Progress
}

func (c *counted) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.done += int64(n)
	c.p.Bytes(c.done, max(c.total, c.done))
	return n, err
}

func (n *Node) importCopy(ctx context.Context, spec *agentv1.ImportCopy, p *Progress) (*agentv1.TaskResult, error) {
	if err := n.vacate(spec.GetName()); err != nil {
		return nil, err
	}
	facts, err := n.Vault.Import(ctx, spec.GetName(), spec.GetPath(), spec.GetSkipHashCheck(), p.Bytes)
	if err != nil {
		return nil, err
	}
	return &agentv1.TaskResult{Result: &agentv1.TaskResult_Copy{Copy: facts}}, nil
}

// inspectCopy reads a copy's facts from the file.
func (n *Node) inspectCopy(ctx context.Context, spec *agentv1.InspectCopy, p *Progress) (*agentv1.TaskResult, error) {
	path, err := n.Vault.Path(spec.GetName())
	if err != nil {
		return nil, err
	}
	m, err := etcdfile.Inspect(ctx, path, p.read)
	if err != nil {
		return nil, err
	}
	return &agentv1.TaskResult{Result: &agentv1.TaskResult_Manifest{Manifest: m}}, nil
}

// read counts bytes of a file that is read several times, so that a total would say nothing.
func (p *Progress) read(int64) { p.Tick() }

// fetch makes the vault hold the copy, from neighbours if it does not yet. Neighbours may in turn fetch
// what has been received; that right lasts until the node is given another step's task.
func (n *Node) fetch(ctx context.Context, task *agentv1.Task, spec *agentv1.FetchCopy, p *Progress) (*agentv1.TaskResult, error) {
	n.hold(task, n.Grants.Allow(spec.GetManifest().GetName(), spec.GetReaders()...))
	fetched, err := n.Fetcher.Fetch(ctx, spec, p.Bytes)
	if err != nil {
		return nil, err
	}
	return &agentv1.TaskResult{Result: &agentv1.TaskResult_Fetched{Fetched: fetched}}, nil
}

// hold keeps a grant for as long as the operation stays in its step.
func (n *Node) hold(task *agentv1.Task, release func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	key := task.GetOperationId() + "/" + task.GetStep()
	for other, releases := range n.granted {
		if other == key {
			continue
		}
		for _, r := range releases {
			r()
		}
		delete(n.granted, other)
	}
	if n.granted == nil {
		n.granted = make(map[string][]func())
	}
	n.granted[key] = append(n.granted[key], release)
}

// serve lets neighbours fetch a copy until the task is cancelled.
func (n *Node) serve(ctx context.Context, spec *agentv1.ServeCopy, p *Progress) error {
	release := n.Grants.Allow(spec.GetName(), spec.GetReaders()...)
	defer release()
	stop := p.tickWhile(ctx)
	defer stop()
	<-ctx.Done()
	return ctx.Err()
}

func (n *Node) drop(spec *agentv1.DropCopy) error {
	if spec.GetPartialOnly() {
		return n.Vault.DropPartial(spec.GetName())
	}
	return n.Vault.Drop(spec.GetName())
}

func (n *Node) list() (*agentv1.TaskResult, error) {
	all, err := n.Vault.List()
	if err != nil && len(all) == 0 {
		return nil, err
	}
	if err != nil {
		n.Log.Warn("some snapshots cannot be listed", "error", err)
	}
	return &agentv1.TaskResult{Result: &agentv1.TaskResult_Copies{Copies: &agentv1.CopyList{Manifests: all}}}, nil
}

// push sends a copy to the controller, for an operator who exports it.
func (n *Node) push(ctx context.Context, spec *agentv1.PushCopy, p *Progress) error {
	path, err := n.Vault.Path(spec.GetName())
	if err != nil {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	stream, err := n.Push(ctx)
	if err != nil {
		return err
	}
	buf := make([]byte, pushChunk)
	var done int64
	for {
		k, err := f.Read(buf)
		if errors.Is(err, io.EOF) {
			_, err := stream.CloseAndRecv()
			return err
		}
		if err != nil {
			return err
		}
		if err := stream.Send(&agentv1.PushCopyRequest{RelayId: spec.GetRelayId(), Data: buf[:k]}); err != nil {
			_, cause := stream.CloseAndRecv() // says why the other side ended the stream
			return errors.Join(err, cause)
		}
		done += int64(k)
		p.Bytes(done, 0)
	}
}
