package task

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestVersionOfKubernetes(t *testing.T) {
	for image, want := range map[string]string{
		"registry.k8s.io/kube-apiserver:v1.31.2":                           "v1.31.2",
		"10.0.0.1:5000/kube-apiserver":                                     "",
		"10.0.0.1:5000/kube-apiserver:v1.30.0@sha256:abc":                  "v1.30.0",
		"index.docker.io/rancher/hardened-kubernetes:v1.30.1-rke2r1-build": "v1.30.1-rke2r1-build",
	} {
		path := filepath.Join(t.TempDir(), "kube-apiserver.yaml")
		text := "spec:\n  containers:\n  - {name: other, image: \"other:v1\"}\n  - {name: kube-apiserver, image: \"" + image + "\"}\n"
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := (Kubernetes{Manifest: path}).version(); err != nil || got != want {
			t.Errorf("%s: %q, %v", image, got, err)
		}
		if got, err := (Kubernetes{Manifest: path, Version: "v1.2.3"}).version(); err != nil || got != "v1.2.3" {
			t.Errorf("%q, %v", got, err)
		}
	}
	for name, text := range map[string]string{"is not the manifest of a pod": "secret: [", "has no container kube-apiserver": "spec: {}"} {
		path := filepath.Join(t.TempDir(), "x.yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := (Kubernetes{Manifest: path}).version(); err == nil || !strings.Contains(err.Error(), name) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
