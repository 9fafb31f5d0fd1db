// Package manifests_test checks deploy/kubernetes against the types of Kubernetes' API, without a cluster or a schema from
// anywhere. It has a module of its own, for those types are none of requorum's dependencies.
package manifests_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
)

// objects reads a file. Unknown kinds, fields and values of another type fail, and so do keys that are there twice.
func objects(t *testing.T, file string) []runtime.Object {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := errors.Join(appsv1.AddToScheme(scheme), corev1.AddToScheme(scheme)); err != nil {
		t.Fatal(err)
	}
	decoder := serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var found []runtime.Object
	documents := utilyaml.NewDocumentDecoder(io.NopCloser(bytes.NewReader(data)))
	buffer := make([]byte, len(data))
	for {
		n, err := documents.Read(buffer)
		if errors.Is(err, io.EOF) {
			return found
		}
		if err != nil {
			t.Fatal(err)
		}
		object, _, err := decoder.Decode(buffer[:n], nil, nil)
		if err != nil {
			t.Errorf("%s: %v", file, err)
			continue
		}
		found = append(found, object)
	}
}

func TestManifests(t *testing.T) {
	files, err := filepath.Glob("../../../deploy/kubernetes/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("%d manifests, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			all := objects(t, file)
			for _, object := range all {
				switch o := object.(type) {
				case *appsv1.Deployment:
					checkPods(t, all, o.Spec.Selector.MatchLabels, o.Spec.Template)
				case *appsv1.DaemonSet:
					checkPods(t, all, o.Spec.Selector.MatchLabels, o.Spec.Template)
				case *corev1.Service:
					checkService(t, all, o)
				}
			}
		})
	}
}

// checkPods fails unless the pods' labels are selected, what they mount is there, and all of it is in one namespace.
func checkPods(t *testing.T, all []runtime.Object, selector map[string]string, pod corev1.PodTemplateSpec) {
	t.Helper()
	if !selects(selector, pod.Labels) {
		t.Errorf("%v does not select pods with %v", selector, pod.Labels)
	}
	var volumes []string
	for _, v := range pod.Spec.Volumes {
		volumes = append(volumes, v.Name)
		switch {
		case v.ConfigMap != nil:
			expectObject[*corev1.ConfigMap](t, all, v.ConfigMap.Name)
		case v.Secret != nil && (v.Secret.Optional == nil || !*v.Secret.Optional):
			expectObject[*corev1.Secret](t, all, v.Secret.SecretName)
		case v.PersistentVolumeClaim != nil:
			expectObject[*corev1.PersistentVolumeClaim](t, all, v.PersistentVolumeClaim.ClaimName)
		}
	}
	for _, c := range pod.Spec.Containers {
		for _, m := range c.VolumeMounts {
			if !slices.Contains(volumes, m.Name) {
				t.Errorf("container %s mounts %s, which is no volume of its pod", c.Name, m.Name)
			}
		}
	}
}

// checkService fails unless the service selects the pods of a deployment that has its port.
func checkService(t *testing.T, all []runtime.Object, s *corev1.Service) {
	t.Helper()
	for _, object := range all {
		d, ok := object.(*appsv1.Deployment)
		if !ok || !selects(s.Spec.Selector, d.Spec.Template.Labels) {
			continue
		}
		for _, p := range d.Spec.Template.Spec.Containers[0].Ports {
			if p.Name == s.Spec.Ports[0].TargetPort.StrVal {
				return
			}
		}
	}
	t.Errorf("service %s leads to no port of any pod", s.Name)
}

func selects(selector, labels map[string]string) bool {
	for k, v := range selector {
		if labels[k] != v {
			return false
		}
	}
	return len(selector) > 0
}

func expectObject[T metav1.Object](t *testing.T, all []runtime.Object, name string) {
	t.Helper()
	for _, object := range all {
		if o, ok := object.(T); ok && o.GetName() == name && o.GetNamespace() == "requorum" {
			return
		}
	}
	t.Errorf("there is no %T %q", *new(T), name)
}
