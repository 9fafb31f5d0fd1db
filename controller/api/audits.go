package api

import (
	"context"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"
)

type audits struct {
	requorumv1.UnimplementedAuditServiceServer
	*Server
}

func (s audits) ListEntries(_ context.Context, req *requorumv1.ListEntriesRequest) (*requorumv1.ListEntriesResponse, error) {
	resp, err := s.Audit.List(req)
	return resp, toStatus(err)
}
