// Package leaks_test makes sure that no package which starts goroutines goes without a test of leaks.
package leaks_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const root = "../.."

var starts = regexp.MustCompile(`(?m)^\s*go (func\b|\w)|\.Go\(func|errgroup\.`)

// Generated code, tools that run once and packages that only help tests are left out.
var leftOut = regexp.MustCompile(`^(gen|bin|dist|e2e|deploy|internal/tools|internal/etcdtest|internal/kubelettest|internal/s3test|internal/objectstore/objectstoretest|controller/store/storetest)(/|$)|^cmd/requorum/dev$`)

func TestPackagesThatStartGoroutinesLookForLeaks(t *testing.T) {
	code, tests := map[string]string{}, map[string]string{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(path) != ".go" {
			return err
		}
		dir, err := filepath.Rel(root, filepath.Dir(path))
		if err != nil || leftOut.MatchString(filepath.ToSlash(dir)) {
			return err
		}
		data, err := os.ReadFile(path)
		if strings.HasSuffix(path, "_test.go") {
			tests[dir] += string(data)
		} else {
			code[dir] += string(data)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for dir, text := range code {
		if !starts.MatchString(text) {
			continue
		}
		found++
		if !strings.Contains(tests[dir], "goleak.VerifyTestMain") {
			t.Errorf("%s starts goroutines, and its tests do not look for leaks: give it a TestMain with goleak.VerifyTestMain", dir)
		}
	}
	if found < 10 {
		t.Errorf("only %d packages start goroutines: the search is broken", found)
	}
}
