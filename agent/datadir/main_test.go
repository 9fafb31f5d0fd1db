package datadir_test

import (
	"net/url"
	"testing"

	"go.uber.org/goleak"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func manifest(sha256 string) *requorumv1.Manifest { return &requorumv1.Manifest{Sha256: sha256} }

func port(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return ""
	}
	return u.Port()
}
