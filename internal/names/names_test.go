package names_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/requorum/requorum/internal/names"
)

func TestCheck(t *testing.T) {
	for name, allowed := range map[string]bool{
		"prod":                   true,
		"pre-1.31_B":             true,
		strings.Repeat("a", 128): true,
		"":                       false,
		strings.Repeat("a", 129): false,
		".hidden":                false,
		"..":                     false,
		"../etc/passwd":          false,
		"a/b":                    false,
		"a b":                    false,
		"a:b":                    false,
		"a\x00b":                 false,
		"$(reboot)":              false,
		"café":                   false,
		"a\nb":                   false,
	} {
		err := names.Check("snapshot", name)
		if (err == nil) != allowed {
			t.Errorf("Check(%q) = %v, allowed is %v", name, err, allowed)
		}
		var typed *names.Error
		if err != nil && !errors.As(err, &typed) {
			t.Errorf("Check(%q) returned a %T", name, err)
		}
	}
}

func TestErrorsShowTheCharacterAndNoMoreOfALongName(t *testing.T) {
	for name, want := range map[string]string{
		"café":                    `snapshot name "café" has "é" in it; names are`,
		"a\xffb":                  `has "\xff" in it`,
		strings.Repeat("ab", 500): `snapshot name "abababababababababababababababab"… is 1000 bytes long; names are`,
	} {
		if err := names.Check("snapshot", name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v", err)
		}
	}
}

func FuzzCheck(f *testing.F) {
	f.Add("pre-1.31")
	f.Add("../x")
	f.Fuzz(func(t *testing.T, name string) {
		if names.Check("snapshot", name) != nil {
			return
		}
		if strings.ContainsAny(name, "/\\:\x00 \n'\"$`") || name == "." || name == ".." || len(name) > names.MaxLength {
			t.Fatalf("%q is allowed", name)
		}
	})
}
