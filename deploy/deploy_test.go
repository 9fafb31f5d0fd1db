// Package deploy_test keeps the example configurations true: they load, and they name every key there is.
package deploy_test

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/requorum/requorum/agent"
	"github.com/requorum/requorum/controller"
	"github.com/requorum/requorum/internal/config"
)

// examples returns the files with what each configures.
func examples(t *testing.T) map[string]any {
	t.Helper()
	agents, err := filepath.Glob("agent-*.yaml")
	if err != nil || len(agents) == 0 {
		t.Fatalf("%d agents, %v", len(agents), err)
	}
	found := map[string]any{"controller.yaml": new(controller.Config)}
	for _, file := range agents {
		found[file] = new(agent.Config)
	}
	return found
}

func TestExamplesLoad(t *testing.T) {
	for file, into := range examples(t) {
		if err := config.Load(file, into); err != nil {
			t.Error(err)
		}
	}
}

// TestExamplesLoadInFull takes the "#" off the keys that are shown as comments and loads again, so that they
// cannot rot either.
func TestExamplesLoadInFull(t *testing.T) {
	key := regexp.MustCompile(`(?m)^( *)# ( *[a-z_]+:( .*)?)$`)
	for file, into := range examples(t) {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		full := t.TempDir() + "/" + file
		if err := os.WriteFile(full, key.ReplaceAll(data, []byte("$1$2")), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := config.Load(full, into); err != nil {
			t.Error(err)
			continue
		}
		own := "runtime." + strings.TrimSuffix(strings.TrimPrefix(file, "agent-"), ".yaml")
		for _, path := range unset(reflect.ValueOf(into).Elem(), "") {
			other := strings.HasPrefix(path, "runtime.") && !strings.HasPrefix(path, own)
			if !other && path != "log_json" { // the default of log_json is its zero value
				t.Errorf("%s does not show the key %s", file, path)
			}
		}
	}
}

// unset returns the keys that have no value.
func unset(v reflect.Value, prefix string) []string {
	var paths []string
	for i := range v.NumField() {
		name := v.Type().Field(i).Tag.Get("yaml")
		if name == "-" {
			continue
		}
		f := v.Field(i)
		if f.Kind() == reflect.Pointer && !f.IsNil() {
			f = f.Elem()
		}
		switch {
		case f.Kind() == reflect.Slice && f.Len() > 0 && f.Index(0).Kind() == reflect.Struct: // the first one shows every key, or another does
			paths = append(paths, unsetInAll(f, prefix+name+".")...)
		case f.Kind() == reflect.Struct:
			paths = append(paths, unset(f, prefix+name+".")...)
		case f.IsZero():
			paths = append(paths, prefix+name)
		}
	}
	return paths
}

// unsetInAll returns the keys that none of a list has.
func unsetInAll(list reflect.Value, prefix string) []string {
	paths := unset(list.Index(0), prefix)
	for i := 1; i < list.Len(); i++ {
		others := unset(list.Index(i), prefix)
		paths = slices.DeleteFunc(paths, func(p string) bool { return !slices.Contains(others, p) })
	}
	return paths
}
