package api

import (
	"cmp"
	"context"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/controller/snapshot"
)

type remotes struct {
	requorumv1.UnimplementedRemoteServiceServer
	*Server
}

func (s remotes) ListRemotes(context.Context, *requorumv1.ListRemotesRequest) (*requorumv1.ListRemotesResponse, error) {
	all, err := s.Remotes.Describe()
	return &requorumv1.ListRemotesResponse{Remotes: all}, toStatus(err)
}

func (s remotes) ListRemoteSnapshots(ctx context.Context, req *requorumv1.ListRemoteSnapshotsRequest) (*requorumv1.ListRemoteSnapshotsResponse, error) {
	finder := &snapshot.Finder{Remotes: s.Remotes, Catalog: s.Catalog, Fleet: s.Dispatcher, Ask: s.Dispatcher}
	list, err := finder.List(ctx, req.GetRemote(), req.GetCluster(), cmp.Or(req.GetOf(), req.GetCluster()))
	if err != nil {
		return nil, toStatus(err)
	}
	return &requorumv1.ListRemoteSnapshotsResponse{Manifests: list.GetManifests(), Orphans: list.GetOrphans(), Problems: list.GetProblems()}, nil
}
