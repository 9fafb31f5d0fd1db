// Package dockertest gives tests a Docker engine, and an image of etcd that needs no registry. Where there is no engine,
// tests skip and say so; with CI=true they fail. It is for tests only.
package dockertest

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/moby/moby/client"

	"github.com/requorum/requorum/internal/lacking"
)

// Engine returns a client of the engine that DOCKER_HOST names, or of the default one.
func Engine(t testing.TB) *client.Client {
	t.Helper()
	engine, err := client.New(client.FromEnv)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := engine.Close(); err != nil {
			t.Error(err)
		}
	})
	if _, err := engine.Ping(t.Context(), client.PingOptions{}); err != nil {
		lacking.Part(t, "this test needs a Docker engine: %v", err)
	}
	return engine
}

// Binary returns the static binary of requorum that REQUORUM_BIN names, or builds it in dir.
func Binary(dir string) (string, error) {
	if given := os.Getenv("REQUORUM_BIN"); given != "" {
		return given, nil
	}
	root, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return "", fmt.Errorf("find the module: %w", err)
	}
	binary := filepath.Join(dir, "requorum")
	build := exec.Command("go", "build", "-buildvcs=false", "-o", binary, "./cmd/requorum")
	build.Dir, build.Env = strings.TrimSpace(string(root)), append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build requorum: %w\n%s", err, out)
	}
	return binary, nil
}

// Import makes an image of nothing but requorum's binary, which is /usr/local/bin/etcd there, and the accounts etcd
// (1234, group 2345) and backup (a group, 3456).
func Import(ctx context.Context, engine *client.Client, binary, name string) error {
	content, err := os.ReadFile(binary)
	if err != nil {
		return err
	}
	var files bytes.Buffer
	w := tar.NewWriter(&files)
	for _, f := range []struct {
		header  tar.Header
		content []byte
	}{
		{tar.Header{Name: "usr/local/bin/requorum", Mode: 0o755}, content},
		{tar.Header{Name: "usr/local/bin/etcd", Typeflag: tar.TypeSymlink, Linkname: "requorum"}, nil},
		{tar.Header{Name: "etc/passwd", Mode: 0o644}, []byte("root:x:0:0::/:\netcd:x:1234:2345::/:\n")},
		{tar.Header{Name: "etc/group", Mode: 0o644}, []byte("root:x:0:\netcd:x:2345:\nbackup:x:3456:\n")},
	} {
		f.header.Size = int64(len(f.content))
		if err := w.WriteHeader(&f.header); err != nil {
			return err
		}
		if _, err := w.Write(f.content); err != nil {
			return err
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	result, err := engine.ImageImport(ctx, client.ImageImportSource{Source: &files, SourceName: "-"}, name, client.ImageImportOptions{})
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, result)
	return errors.Join(err, result.Close())
}
