package config_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/requorum/requorum/internal/config"
)

func TestDocumentsAreReadOneByOne(t *testing.T) {
	docs, err := config.Documents[sample]("many.yaml", []byte("# nothing yet\n---\nlisten: a\n---\n---\nlisten: b\ntls:\n  cert: c\n---\n"))
	if err != nil || len(docs) != 2 || docs[0].Value.Listen != "a" || docs[1].Value.Listen != "b" {
		t.Fatalf("%+v, %v", docs, err)
	}
	for field, want := range map[string]string{
		"":         "many.yaml:6: no",
		"tls.cert": "many.yaml:8: tls.cert: no",
		"tls.key":  "many.yaml:7: tls.key: no",
		"stall":    "many.yaml:6: stall: no",
	} {
		if got := docs[1].Wrong(field, "no"); got.Error() != want {
			t.Errorf("%s: %v, want %s", field, got, want)
		}
	}
	if docs[1].Where() != "many.yaml:6" {
		t.Error(docs[1].Where())
	}
}

func TestEveryDocumentIsChecked(t *testing.T) {
	_, err := config.Documents[sample]("many.yaml", []byte("lissen: a\n---\nstall: 5\n---\nlisten: b\n"))
	want := "many.yaml:1: unknown key lissen; did you mean listen?\nmany.yaml:3: \"5\" is not a duration; write it with its unit, as 72h or 10m"
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	var located *config.Error
	if _, err := config.Documents[sample]("-", []byte("listen: a\n---\n\tb")); !errors.As(err, &located) || located.Line == 0 {
		t.Errorf("what is no YAML: %v", err)
	}
	if docs, err := config.Documents[sample]("-", nil); err != nil || len(docs) != 0 {
		t.Errorf("nothing: %v, %v", docs, err)
	}
}

func TestLifetime(t *testing.T) {
	for text, want := range map[string]time.Duration{"30d": 30 * 24 * time.Hour, "72h": 72 * time.Hour, "3600": time.Hour, "90s": 90 * time.Second, "0": 0} {
		var l config.Lifetime
		if err := l.Set(text); err != nil || l.Std() != want {
			t.Errorf("%s: %s, %v", text, l.Std(), err)
		}
		var again config.Lifetime
		if err := again.Set(l.String()); err != nil || again != l {
			t.Errorf("%s is written as %s, which is read as %s, %v", text, l, again.Std(), err)
		}
	}
	for _, text := range []string{"", "d", "soon", "-1", "-1d", "-5m", "9223372036854775807", "1.5d", "7w"} {
		var l config.Lifetime
		if err := l.Set(text); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%q is taken for %s, %v", text, l, err)
		}
	}
}
