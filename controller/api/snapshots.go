package api

import (
	"context"
	"fmt"
	"sync"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/controller/catalog"
	"github.com/requorum/requorum/controller/dispatch"
	"github.com/requorum/requorum/controller/failure"
)

type snapshots struct {
	requorumv1.UnimplementedSnapshotServiceServer
	*Server
}

func (s snapshots) SaveSnapshot(ctx context.Context, req *requorumv1.SaveSnapshotRequest) (*requorumv1.SaveSnapshotResponse, error) {
	by, err := caller(ctx)
	if err != nil {
		return nil, toStatus(err)
	}
	op, err := s.Snapshots.Save(req, by)
	return &requorumv1.SaveSnapshotResponse{Operation: op}, toStatus(err)
}

func (s snapshots) ImportSnapshot(ctx context.Context, req *requorumv1.ImportSnapshotRequest) (*requorumv1.ImportSnapshotResponse, error) {
	by, err := caller(ctx)
	if err != nil {
		return nil, toStatus(err)
	}
	op, err := s.Snapshots.Import(ctx, req, by)
	return &requorumv1.ImportSnapshotResponse{Operation: op}, toStatus(err)
}

func (s snapshots) CheckSnapshot(ctx context.Context, req *requorumv1.CheckSnapshotRequest) (*requorumv1.CheckSnapshotResponse, error) {
	by, err := caller(ctx)
	if err != nil {
		return nil, toStatus(err)
	}
	op, err := s.Snapshots.Check(req.GetCluster(), req.GetName(), req.GetRequestId(), by)
	return &requorumv1.CheckSnapshotResponse{Operation: op}, toStatus(err)
}

func (s snapshots) VerifySnapshot(ctx context.Context, req *requorumv1.VerifySnapshotRequest) (*requorumv1.VerifySnapshotResponse, error) {
	by, err := caller(ctx)
	if err != nil {
		return nil, toStatus(err)
	}
	op, err := s.Snapshots.Verify(req, by)
	return &requorumv1.VerifySnapshotResponse{Operation: op}, toStatus(err)
}

func (s snapshots) DistributeSnapshot(ctx context.Context, req *requorumv1.DistributeSnapshotRequest) (*requorumv1.DistributeSnapshotResponse, error) {
	by, err := caller(ctx)
	if err != nil {
		return nil, toStatus(err)
	}
	op, err := s.Snapshots.Distribute(req.GetCluster(), req.GetName(), req.GetRequestId(), by, req.GetIdentity())
	return &requorumv1.DistributeSnapshotResponse{Operation: op}, toStatus(err)
}

func (s snapshots) UploadSnapshot(ctx context.Context, req *requorumv1.UploadSnapshotRequest) (*requorumv1.UploadSnapshotResponse, error) {
	by, err := caller(ctx)
	if err != nil {
		return nil, toStatus(err)
	}
	op, err := s.Snapshots.Upload(req, by)
	return &requorumv1.UploadSnapshotResponse{Operation: op}, toStatus(err)
}

func (s snapshots) DeleteSnapshot(ctx context.Context, req *requorumv1.DeleteSnapshotRequest) (*requorumv1.DeleteSnapshotResponse, error) {
	by, err := caller(ctx)
	if err != nil {
		return nil, toStatus(err)
	}
	op, err := s.Snapshots.Delete(req, by)
	return &requorumv1.DeleteSnapshotResponse{Operation: op}, toStatus(err)
}

func (s snapshots) ListSnapshots(_ context.Context, req *requorumv1.ListSnapshotsRequest) (*requorumv1.ListSnapshotsResponse, error) {
	if req.GetCluster() != "" {
		if _, err := s.Catalog.Cluster(req.GetCluster()); err != nil {
			return nil, toStatus(err)
		}
	}
	all, err := s.Catalog.Snapshots(req.GetCluster())
	return &requorumv1.ListSnapshotsResponse{Snapshots: all}, toStatus(err)
}

func (s snapshots) GetSnapshot(_ context.Context, req *requorumv1.GetSnapshotRequest) (*requorumv1.GetSnapshotResponse, error) {
	if _, err := s.Catalog.Cluster(req.GetCluster()); err != nil {
		return nil, toStatus(err)
	}
	snap, err := s.Catalog.Snapshot(req.GetCluster(), req.GetName())
	return &requorumv1.GetSnapshotResponse{Snapshot: snap}, toStatus(err)
}

func (s snapshots) ExportSnapshot(req *requorumv1.ExportSnapshotRequest, stream requorumv1.SnapshotService_ExportSnapshotServer) error {
	snap, err := s.Catalog.Snapshot(req.GetCluster(), req.GetName())
	if err != nil {
		return toStatus(err)
	}
	node, err := s.holder(snap, req.GetNode())
	if err != nil {
		return toStatus(err)
	}
	manifest := &requorumv1.ExportSnapshotResponse_Manifest{Manifest: snap.GetManifest()}
	if err := stream.Send(&requorumv1.ExportSnapshotResponse{Part: manifest}); err != nil {
		return err
	}
	return toStatus(s.pull(stream.Context(), snap, node, func(data []byte) error {
		return stream.Send(&requorumv1.ExportSnapshotResponse{Part: &requorumv1.ExportSnapshotResponse_Data{Data: data}})
	}))
}

// holder returns a connected node with a good copy: the one asked for, or the first.
func (s snapshots) holder(snap *requorumv1.Snapshot, want string) (string, error) {
	if !catalog.Good(snap) {
		return "", &failure.Error{Message: "snapshot " + snap.GetName() + " is not READY", Advice: "choose another one (requorum snapshot ls)"}
	}
	for _, c := range snap.GetCopies() {
		asked := want == "" || want == c.GetNode()
		connected := s.Dispatcher.Info(dispatch.Key{Cluster: snap.GetCluster(), Node: c.GetNode()}).Connected
		if asked && connected && c.GetState() == requorumv1.CopyState_COPY_STATE_GOOD {
			return c.GetNode(), nil
		}
	}
	if want != "" {
		return "", failure.On(want, "it has no good copy of "+snap.GetName()+", or its agent is not connected", "leave out --node to use any node that has one")
	}
	return "", &failure.Error{Message: "no connected node has a good copy of " + snap.GetName(), Advice: "start the agents, then: requorum snapshot check " + snap.GetName()}
}

// pull makes a node push its copy to this controller and hands the bytes on, in order.
func (s snapshots) pull(ctx context.Context, snap *requorumv1.Snapshot, node string, use func([]byte) error) error {
	var asking sync.WaitGroup
	defer asking.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	id, parts, done := s.relays.open(dispatch.Key{Cluster: snap.GetCluster(), Node: node})
	defer done()
	answer := make(chan error, 1)
	task := &agentv1.Task{Spec: &agentv1.Task_PushCopy{PushCopy: &agentv1.PushCopy{RelayId: id, Name: snap.GetName()}}}
	asking.Go(func() {
		_, err := s.Dispatcher.AskNode(ctx, snap.GetCluster(), node, task)
		answer <- err
	})
	var passed int64
	for {
		select {
		case data := <-parts:
			passed += int64(len(data))
			if err := use(data); err != nil {
				return err
			}
		case err := <-answer:
			if err == nil && passed != catalog.FileSize(snap.GetManifest()) {
				err = fmt.Errorf("node %s sent %d bytes of %d", node, passed, catalog.FileSize(snap.GetManifest()))
			}
			return err
		}
	}
}
