package task

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/requorum/requorum/agent/vault"
	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"
	"github.com/requorum/requorum/internal/tasks"
)

const pushChunk = 256 << 10

// save streams a snapshot of the running member into the vault. A complete file without a manifest is
// what an earlier try of the same task left. Neighbours may follow the file while it is written.
func (n *Node) save(ctx context.Context, task *agentv1.Task, spec *agentv1.SaveCopy, p *Progress) (*agentv1.TaskResult, error) {
	if err := n.vacate(spec.GetName()); err != nil {
		return nil, err
	}
	n.holdGrant(task, n.Grants.Allow(spec.GetName(), spec.GetReaders()...))
	m, err := n.Member(ctx)
	if err != nil {
		return nil, err
	}
	total := m.Status(ctx).GetDbSize()
	w, err := n.create(spec.GetName(), spec.GetSealing())
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
	facts, err := n.commit(ctx, w, p)
	if err != nil {
		return nil, err
	}
	facts.EtcdVersion, facts.Created = version, timestamppb.New(created)
	return &agentv1.TaskResult{Result: &agentv1.TaskResult_Copy{Copy: facts}}, nil
}

// vacate removes what an earlier try left under a name, and refuses a name that stands for a snapshot,
// also one whose manifest cannot be read.
func (n *Node) vacate(name string) error {
	m, err := n.Vault.Manifest(name)
	switch {
	case err == nil:
		return &Refused{
			Message: fmt.Sprintf("this node keeps a snapshot %s already, taken %s", name, m.GetCreated().AsTime().Format(time.RFC3339)),
			Advice:  "choose another name",
		}
	case !errors.Is(err, vault.ErrNotFound):
		return &Refused{Message: fmt.Sprintf("this node keeps something named %s already: %v", name, err), Advice: "choose another name"}
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
	facts, err := n.importFile(ctx, spec, p)
	if err != nil {
		return nil, err
	}
	return &agentv1.TaskResult{Result: &agentv1.TaskResult_Copy{Copy: facts}}, nil
}

// inspectCopy reads a copy's facts from the file.
func (n *Node) inspectCopy(ctx context.Context, spec *agentv1.InspectCopy, p *Progress) (*agentv1.TaskResult, error) {
	described, err := n.Vault.Manifest(spec.GetName())
	if err != nil { // it may not be described yet, and is in the clear then
		described = &requorumv1.Manifest{Name: spec.GetName()}
	}
	var m *requorumv1.Manifest
	err = n.withPlain(ctx, described, "", p, func(path string) (err error) {
		defer n.dropCache(path)
		m, err = n.disk().Inspect(ctx, path, p.read)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &agentv1.TaskResult{Result: &agentv1.TaskResult_Manifest{Manifest: m}}, nil
}

// dropCache leaves the memory that a copy takes in the page cache to etcd, which serves beside the agent and may be about
// to start on staged data.
func (n *Node) dropCache(path string) {
	if err := n.disk().DropCache(path); err != nil {
		n.Log.Warn("a copy stays in the page cache", "path", path, "error", err)
	}
}

// read counts bytes of a file that is read several times, so that a total would say nothing.
func (p *Progress) read(int64) { p.Tick() }

// fetch makes the vault hold the copy, from neighbours if it does not yet. Neighbours may in turn fetch
// what has been received, also after this node has all of it, until releaseGrants.
func (n *Node) fetch(ctx context.Context, task *agentv1.Task, spec *agentv1.FetchCopy, p *Progress) (*agentv1.TaskResult, error) {
	n.holdGrant(task, n.Grants.Allow(spec.GetManifest().GetName(), spec.GetReaders()...))
	fetched, err := n.Fetcher.Fetch(ctx, spec, p.Bytes)
	if err != nil {
		return nil, err
	}
	return &agentv1.TaskResult{Result: &agentv1.TaskResult_Fetched{Fetched: fetched}}, nil
}

// follow takes over what a neighbour saves while it is saved. What an earlier try has left is of another file, if
// the neighbour began anew.
func (n *Node) follow(ctx context.Context, task *agentv1.Task, spec *agentv1.FollowCopy, p *Progress) error {
	if err := n.vacate(spec.GetName()); err != nil {
		return err
	}
	n.holdGrant(task, n.Grants.Allow(spec.GetName(), spec.GetReaders()...))
	return n.Fetcher.Follow(ctx, spec, p.Bytes)
}

// hashCopy reads a copy back from the disk. Without its manifest a good copy would be forgotten together with the
// controller's catalog: one that is damaged or gone is written again.
func (n *Node) hashCopy(ctx context.Context, m *requorumv1.Manifest, p *Progress) *requorumv1.Copy {
	c := n.Vault.Hash(ctx, m, p.Bytes)
	if c.GetState() != requorumv1.CopyState_COPY_STATE_GOOD {
		return c
	}
	_, damage := n.Vault.Manifest(m.GetName())
	if damage == nil {
		return c
	}
	n.Log.Warn("the manifest of a good copy cannot be read and is written again", "snapshot", m.GetName(), "error", damage)
	if err := n.Vault.WriteManifest(m); err != nil {
		c.State, c.Detail = requorumv1.CopyState_COPY_STATE_UNREADABLE, fmt.Sprintf("%v; it cannot be written again: %v", damage, err)
	}
	return c
}

// holdGrant keeps a grant beyond its task.
func (n *Node) holdGrant(task *agentv1.Task, release func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.granted = append(n.granted, heldGrant{operation: task.GetOperationId(), step: task.GetStep(), release: release})
}

// releaseGrants ends the grants of fetches that task shows to be over: their operation has come to
// another step, or something else is to be changed on this node. What fetches again in the same step
// leaves them, and so do the questions of other operations.
func (n *Node) releaseGrants(task *agentv1.Task) {
	_, fetches := task.GetSpec().(*agentv1.Task_FetchCopy)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.granted = slices.DeleteFunc(n.granted, func(g heldGrant) bool {
		sameOperation := g.operation == task.GetOperationId()
		sameStep := sameOperation && g.step == task.GetStep()
		over := sameOperation && !sameStep || !tasks.Question(task) && (!fetches || !sameStep)
		if over {
			g.release()
		}
		return over
	})
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
	return errors.Join(n.Vault.Drop(spec.GetName()), n.dropFiles(spec.GetName()))
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
	info, err := f.Stat()
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
			if cause == nil {
				cause = err
			}
			return fmt.Errorf("send to the controller: %w", cause)
		}
		done += int64(k)
		p.Bytes(done, info.Size())
	}
}
