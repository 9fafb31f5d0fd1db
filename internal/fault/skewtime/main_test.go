package main

import (
	"encoding/json"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What is written replaces the toolchain's own file and can be compiled.
func TestWrite(t *testing.T) {
	t.Parallel()
	path, err := write(filepath.Join(t.TempDir(), "new"))
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var overlay struct{ Replace map[string]string }
	if err := json.Unmarshal(data, &overlay); err != nil {
		t.Fatal(err)
	}
	if len(overlay.Replace) != 1 {
		t.Fatalf("the overlay replaces %v, want time.go alone", overlay.Replace)
	}
	for from, to := range overlay.Replace {
		original, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		changed, err := os.ReadFile(to)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := parser.ParseFile(token.NewFileSet(), to, changed, 0); err != nil {
			t.Error(err)
		}
		if string(original) == string(changed) {
			t.Error("nothing was changed")
		}
	}
}

// A time.go that is not the one we know is refused: with it, every test of jumps would pass.
func TestUnknownSourceIsRefused(t *testing.T) {
	t.Parallel()
	known := "package time\n\n" + imports + ")\n\n// runtimeNow reads\nfunc runtimeNow() (sec int64, nsec int32, mono int64)\n\n" + now + "}\n"
	if _, err := skew(known); err != nil {
		t.Fatalf("the source as it is known: %v", err)
	}
	for name, source := range map[string]string{
		"Now reads another clock": strings.Replace(known, reads, "\tsec, nsec, mono := vdsoNow()\n", 1),
		"no Now":                  strings.Replace(known, "func Now()", "func now2()", 1),
		"another reader":          known + "func Unix() { runtimeNow() }\n",
		"no imports":              strings.Replace(known, imports, "import \"errors\"\n", 1),
	} {
		if _, err := skew(source); err == nil {
			t.Errorf("%s: it is taken for the one we know", name)
		}
	}
}
