package access

import (
	"context"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	journalv1 "github.com/requorum/requorum/gen/requorum/journal/v1"

	"github.com/requorum/requorum/controller/store"
	"github.com/requorum/requorum/internal/names"
	"github.com/requorum/requorum/internal/pki"
)

// keepExpired is how long the record of an expired token is kept, so that a request ID that is
// repeated late finds the expired token instead of bringing it back to life.
const keepExpired = 30 * 24 * time.Hour

const tokenBytes = 40 // what pki.DeriveToken takes

// CreateToken makes a join token for cluster: for one node, or for any if node is empty. A ttl of 0
// stands for the default. The secret is not stored. It is derived from the CA's key and the request ID
// instead, so that the same request ID returns the same token and expiry; with another cluster or node
// the error is ErrRequestReused. Without a request ID every call makes a new token.
func (a *Access) CreateToken(ctx context.Context, requestID, cluster, node string, ttl time.Duration) (string, time.Time, error) {
	if err := checkTokenRequest(cluster, node, ttl); err != nil {
		return "", time.Time{}, err
	}
	if ttl == 0 {
		ttl = a.options.TokenTTL
	}
	token, err := a.deriveToken(requestID, cluster)
	if err != nil {
		return "", time.Time{}, err
	}
	now := a.options.Now()
	record := &journalv1.TokenRecord{
		Id:           token.ID,
		SecretSha256: secretSum(token.Secret),
		Cluster:      cluster,
		Node:         node,
		Expires:      timestamppb.New(now.Add(ttl)),
	}
	err = a.store.Update(func(tx store.Tx) error {
		if err := pruneTokens(tx, now.Add(-keepExpired)); err != nil {
			return err
		}
		record, err = addToken(tx, record)
		return err
	})
	if err != nil {
		return "", time.Time{}, fmt.Errorf("create join token for cluster %s: %w", cluster, err)
	}
	expires := record.GetExpires().AsTime()
	a.log.Info("join token created", "token", token.ID, "cluster", cluster, "node", node, "expires", expires, "by", caller(ctx))
	return token.String(), expires, nil
}

func checkTokenRequest(cluster, node string, ttl time.Duration) error {
	err := names.Check("cluster", cluster)
	if err == nil && node != "" {
		err = names.Check("node", node)
	}
	if err == nil && ttl < 0 {
		err = fmt.Errorf("a join token that lives for %s is of no use", ttl)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return nil
}

func (a *Access) deriveToken(requestID, cluster string) (pki.Token, error) {
	if requestID == "" {
		requestID = rand.Text()
	}
	key, err := a.authority.Derive("join tokens")
	if err != nil {
		return pki.Token{}, err
	}
	random, err := hkdf.Expand(sha256.New, key, requestID, tokenBytes)
	if err != nil {
		return pki.Token{}, fmt.Errorf("derive join token: %w", err)
	}
	return pki.DeriveToken(cluster, a.authority.Fingerprint(), random)
}

// addToken stores record unless it is there already, and returns what is stored.
func addToken(tx store.Tx, record *journalv1.TokenRecord) (*journalv1.TokenRecord, error) {
	var stored journalv1.TokenRecord
	err := store.Load(tx, store.Tokens, record.GetId(), &stored)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return record, store.Save(tx, store.Tokens, record.GetId(), record)
	case err != nil:
		return nil, err
	case stored.GetCluster() != record.GetCluster() || stored.GetNode() != record.GetNode():
		return nil, fmt.Errorf("%w, for cluster %s and node %q; use a new request ID", ErrRequestReused, stored.GetCluster(), stored.GetNode())
	}
	return &stored, nil
}

func pruneTokens(tx store.Tx, before time.Time) error {
	return eachToken(tx, func(record *journalv1.TokenRecord) error {
		if record.GetExpires().AsTime().After(before) {
			return nil
		}
		return tx.Delete(store.Tokens, record.GetId())
	})
}

func eachToken(tx store.Tx, f func(*journalv1.TokenRecord) error) error {
	return tx.Each(store.Tokens, "", func(id string, _ []byte) error {
		var record journalv1.TokenRecord
		if err := store.Load(tx, store.Tokens, id, &record); err != nil {
			return fmt.Errorf("token %s: %w", id, err)
		}
		return f(&record)
	})
}

// checkToken returns the record of a token that is good for node. A wrong secret and an unknown ID are
// told alike, and in like time.
func (a *Access) checkToken(tx store.Tx, id, secret, node string) (*journalv1.TokenRecord, error) {
	var record journalv1.TokenRecord
	err := store.Load(tx, store.Tokens, id, &record)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return nil, err
	}
	want := record.GetSecretSha256()
	if len(want) == 0 {
		want = make([]byte, sha256.Size)
	}
	if subtle.ConstantTimeCompare(secretSum(secret), want) != 1 || record.GetId() == "" {
		return nil, fmt.Errorf("%w to this controller; %s", ErrTokenUnknown, newTokenAdvice("NAME", node))
	}
	if expires := record.GetExpires().AsTime(); !a.options.Now().Before(expires) {
		return nil, fmt.Errorf("%w at %s; %s", ErrTokenExpired, expires.Format(time.RFC3339), newTokenAdvice(record.GetCluster(), node))
	}
	if bound := record.GetNode(); bound != "" && bound != node {
		return nil, fmt.Errorf("%w: for %s, not for %s; %s", ErrTokenNode, bound, node, newTokenAdvice(record.GetCluster(), node))
	}
	return &record, nil
}

func usedBy(record *journalv1.TokenRecord, node string) bool {
	return slices.Contains(record.GetUsedBy(), node)
}

func secretSum(secret string) []byte {
	sum := sha256.Sum256([]byte(secret))
	return sum[:]
}

func newTokenAdvice(cluster, node string) string {
	return fmt.Sprintf("make a new one with: requorum token create --cluster %s --node %s", cluster, node)
}
