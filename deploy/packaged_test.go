package deploy_test

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/requorum/requorum/agent"
	"github.com/requorum/requorum/controller"
	"github.com/requorum/requorum/internal/config"
)

// roles returns an empty configuration of each role by the name of its file.
func roles() map[string]any {
	return map[string]any{"controller.yaml": new(controller.Config), "agent.yaml": new(agent.Config)}
}

func TestConfigurationsOfThePackageLoad(t *testing.T) {
	for file, into := range roles() {
		if err := config.Load(filepath.Join("package", "etc", file), into); err != nil {
			t.Error(err)
		}
	}
}

// TestConfigurationsInManifestsLoad takes them out of their ConfigMaps. The rest of the manifests is checked by make
// check-packages.
func TestConfigurationsInManifestsLoad(t *testing.T) {
	for file, into := range roles() {
		content := configMap(t, filepath.Join("kubernetes", file))[file]
		if content == "" {
			t.Errorf("kubernetes/%s has no ConfigMap with %s", file, file)
			continue
		}
		path := filepath.Join(t.TempDir(), file)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := config.Load(path, into); err != nil {
			t.Error(err)
		}
	}
}

// configMap returns the data of the ConfigMap in a file of manifests.
func configMap(t *testing.T, file string) map[string]string {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}()
	for decoder := yaml.NewDecoder(f); ; {
		var object struct {
			Kind string            `yaml:"kind"`
			Data map[string]string `yaml:"data"`
		}
		switch err := decoder.Decode(&object); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			t.Fatal(err)
		case object.Kind == "ConfigMap":
			return object.Data
		}
	}
}
