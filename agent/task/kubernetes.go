package task

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Kubernetes says how the version of Kubernetes is found out that the node runs.
type Kubernetes struct {
	Version  string // as v1.31.2, where no manifest tells it
	Manifest string // of kube-apiserver's static pod; where kubeadm and RKE2 have it if empty
}

const largestManifest = 1 << 20

var manifests = []string{"/etc/kubernetes/manifests/kube-apiserver.yaml", "/var/lib/rancher/rke2/agent/pod-manifests/kube-apiserver.yaml"}

// version returns the version, empty if the node cannot tell it.
func (k Kubernetes) version() (string, error) {
	if k.Version != "" {
		return k.Version, nil
	}
	if k.Manifest != "" {
		return versionIn(k.Manifest)
	}
	for _, path := range manifests {
		version, err := versionIn(path)
		if !errors.Is(err, fs.ErrNotExist) {
			return version, err
		}
	}
	return "", nil
}

// versionIn returns the tag of the image of kube-apiserver.
func versionIn(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	data, err := io.ReadAll(io.LimitReader(f, largestManifest))
	if err = errors.Join(err, f.Close()); err != nil {
		return "", err
	}
	var pod struct {
		Spec struct {
			Containers []struct {
				Name  string `yaml:"name"`
				Image string `yaml:"image"`
			} `yaml:"containers"`
		} `yaml:"spec"`
	}
	if err := yaml.Unmarshal(data, &pod); err != nil {
		return "", fmt.Errorf("%s is not the manifest of a pod", path) // what YAML says repeats the text
	}
	for _, c := range pod.Spec.Containers {
		if c.Name == "kube-apiserver" {
			return tagOf(c.Image), nil
		}
	}
	return "", fmt.Errorf("%s has no container kube-apiserver", path)
}

// tagOf returns the tag of registry:port/name:tag@digest, empty if there is none.
func tagOf(image string) string {
	image, _, _ = strings.Cut(image, "@")
	_, tag, found := strings.Cut(image[strings.LastIndex(image, "/")+1:], ":")
	if !found {
		return ""
	}
	return tag
}
