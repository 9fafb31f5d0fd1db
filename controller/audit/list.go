package audit

import (
	"errors"
	"fmt"

	"github.com/oklog/ulid/v2"
	"google.golang.org/protobuf/proto"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/controller/store"
)

const (
	defaultPage = 100
	longestPage = 1000
	pageBytes   = 1 << 20 // a message has room for four times that
)

// List returns one page of the entries that the request asks for, newest first.
func (l *Log) List(req *requorumv1.ListEntriesRequest) (*requorumv1.ListEntriesResponse, error) {
	limit := int(req.GetPageSize())
	if limit <= 0 {
		limit = defaultPage
	}
	limit = min(limit, longestPage)
	resp := &requorumv1.ListEntriesResponse{}
	size := 0
	err := l.store.View(func(tx store.Tx) error {
		return tx.Down(store.Audit, req.GetPageToken(), func(id string, data []byte) error {
			if tooOld(id, req) {
				return errEnough
			}
			e := new(requorumv1.AuditEntry)
			if err := proto.Unmarshal(data, e); err != nil {
				return fmt.Errorf("audit entry %s cannot be read: %w", id, err)
			}
			if !matches(e, req) {
				return nil
			}
			if len(resp.GetEntries()) == limit || size > 0 && size+len(data) > pageBytes {
				resp.NextPageToken = resp.GetEntries()[len(resp.GetEntries())-1].GetId()
				return errEnough
			}
			resp.Entries = append(resp.Entries, e)
			size += len(data)
			return nil
		})
	})
	if err != nil && !errors.Is(err, errEnough) {
		return nil, err
	}
	return resp, nil
}

// tooOld tells whether neither this entry nor any before it is wanted. The time in an ID is never before that of its
// entry.
func tooOld(id string, req *requorumv1.ListEntriesRequest) bool {
	if req.GetSince() == nil {
		return false
	}
	parsed, err := ulid.ParseStrict(id)
	return err == nil && parsed.Time() < ulid.Timestamp(req.GetSince().AsTime())
}

func matches(e *requorumv1.AuditEntry, req *requorumv1.ListEntriesRequest) bool {
	switch {
	case req.GetCluster() != "" && e.GetCluster() != req.GetCluster():
		return false
	case req.GetBy() != "" && e.GetBy() != req.GetBy() && e.GetByName() != req.GetBy():
		return false
	}
	return req.GetSince() == nil || !e.GetTime().AsTime().Before(req.GetSince().AsTime())
}
