package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// build builds requorum as it is released, and etcd's own tools, at the versions that the module files name. What
// REQUORUM_BIN names is used instead of building it.
func (r *Report) build(ctx context.Context) error {
	r.Say("building requorum, etcdctl and etcdutl")
	root, err := moduleRoot(ctx)
	if err != nil {
		return err
	}
	dir := filepath.Join(r.Settings.Dir, "bin")
	r.Settings.Etcdctl, r.Settings.Etcdutl = filepath.Join(dir, "etcdctl"), filepath.Join(dir, "etcdutl")
	modfile := "-modfile=" + filepath.Join("internal", "tools", "etcd.mod")
	if err := goBuild(ctx, root, modfile, "-o", dir+"/", "go.etcd.io/etcd/etcdctl/v3", "go.etcd.io/etcd/etcdutl/v3"); err != nil {
		return err
	}
	if given := os.Getenv("REQUORUM_BIN"); given != "" {
		r.Settings.Binary, err = filepath.Abs(given)
		return err
	}
	r.Settings.Binary = filepath.Join(dir, "requorum")
	return goBuild(ctx, root, "-trimpath", "-ldflags=-s -w", "-o", r.Settings.Binary, "./cmd/requorum")
}

// buildS3 builds the S3 server that is pinned for tests, and returns its path. What REQUORUM_S3_BIN names is used instead.
func (r *Report) buildS3(ctx context.Context) (string, error) {
	if given := os.Getenv("REQUORUM_S3_BIN"); given != "" {
		return filepath.Abs(given)
	}
	root, err := moduleRoot(ctx)
	if err != nil {
		return "", err
	}
	path := filepath.Join(r.Settings.Dir, "bin", "versitygw")
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	r.Say("  building the S3 server")
	return path, goBuild(ctx, root, "-modfile="+filepath.Join("internal", "tools", "s3.mod"), "-o", path, "github.com/versity/versitygw/cmd/versitygw")
}

func goBuild(ctx context.Context, root string, args ...string) error {
	cmd := exec.CommandContext(ctx, "go", append([]string{"build", "-buildvcs=false"}, args...)...)
	cmd.Dir, cmd.Env = root, append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go %s: %w\n%s", strings.Join(cmd.Args[1:], " "), err, out)
	}
	return nil
}

func moduleRoot(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return "", fmt.Errorf("find the source tree (run this inside of it): %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}
