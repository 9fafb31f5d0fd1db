package logging_test

import (
	"bytes"
	"strings"
	"testing"

	"go.uber.org/zap"

	"github.com/requorum/requorum/internal/logging"
)

func TestZapLinesReachHclogWithTheirFields(t *testing.T) {
	var out bytes.Buffer
	log, err := logging.New("agent", logging.Options{Level: "info", Output: &out})
	if err != nil {
		t.Fatal(err)
	}
	z := logging.Zap(log).With(zap.String("member", "m1"))
	z.Info("chatter")
	z.Warn("careful", zap.Int("revision", 7))
	if strings.Contains(out.String(), "chatter") {
		t.Errorf("etcd's informational lines show at level info: %s", &out)
	}
	for _, want := range []string{"[WARN]", "agent: careful", "member=m1", "revision=7"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in %q", want, out.String())
		}
	}
}

func TestNewRefusesUnknownLevel(t *testing.T) {
	if _, err := logging.New("x", logging.Options{Level: "loud"}); err == nil {
		t.Fatal("accepted")
	}
}
