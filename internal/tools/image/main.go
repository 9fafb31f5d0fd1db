// Command image writes a container image from scratch, with requorum and nothing else in it, as a file that
// docker load, podman load and ctr images import read. It talks to no registry.
//
// It has a module of its own, for its dependencies are none of requorum's.
package main

import (
	"archive/tar"
	"bytes"
	"flag"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// user is who the image runs as unless it is told otherwise, by number: the image has no /etc/passwd.
const user = 65532

func main() {
	var o options
	flag.StringVar(&o.binary, "binary", "bin/requorum", "static `FILE` to run")
	flag.StringVar(&o.arch, "arch", "amd64", "architecture of the binary, as Go names it")
	flag.StringVar(&o.tag, "tag", "requorum:dev", "`NAME:TAG` that the image is loaded as")
	flag.StringVar(&o.version, "version", "dev", "version for the image's labels")
	flag.StringVar(&o.out, "out", "dist/requorum-image.tar", "`FILE` to write")
	flag.Parse()
	if err := write(o); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

type options struct{ binary, arch, tag, version, out string }

func write(o options) error {
	tag, err := name.NewTag(o.tag)
	if err != nil {
		return err
	}
	img, err := build(o)
	if err != nil {
		return err
	}
	return tarball.WriteToFile(o.out, tag, img)
}

func build(o options) (v1.Image, error) {
	binary, err := os.ReadFile(o.binary)
	if err != nil {
		return nil, err
	}
	content, err := root(binary)
	if err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil })
	if err != nil {
		return nil, err
	}
	img, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return nil, err
	}
	file, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	file = file.DeepCopy()
	file.OS, file.Architecture = "linux", o.arch
	file.Config = v1.Config{
		User:       fmt.Sprintf("%d:%d", user, user),
		Entrypoint: []string{"/usr/bin/requorum"},
		Env:        []string{"PATH=/usr/bin"},
		WorkingDir: "/",
		Labels: map[string]string{
			"org.opencontainers.image.title":    "requorum",
			"org.opencontainers.image.version":  o.version,
			"org.opencontainers.image.licenses": "Apache-2.0",
			"org.opencontainers.image.source":   "https://github.com/requorum/requorum",
		},
	}
	return mutate.ConfigFile(img, file)
}

// root returns the root file system as a tar file. The same binary makes the same file: times are zero.
func root(binary []byte) ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	dir := func(path string, mode int64, owner int) tar.Header {
		return tar.Header{Typeflag: tar.TypeDir, Name: path, Mode: mode, Uid: owner, Gid: owner}
	}
	for _, h := range []tar.Header{
		dir("etc/", 0o755, 0), dir("etc/requorum/", 0o755, 0),
		dir("tmp/", 0o1777, 0),
		dir("usr/", 0o755, 0), dir("usr/bin/", 0o755, 0),
		{Typeflag: tar.TypeReg, Name: "usr/bin/requorum", Mode: 0o755, Size: int64(len(binary))},
		dir("var/", 0o755, 0), dir("var/lib/", 0o755, 0),
		// A volume that is mounted here is the user's, where the engine copies the owner.
		dir("var/lib/requorum/", 0o755, user), dir("var/lib/requorum/controller/", 0o700, user),
	} {
		h.ModTime = time.Unix(0, 0)
		if err := w.WriteHeader(&h); err != nil {
			return nil, err
		}
		if h.Typeflag == tar.TypeReg {
			if _, err := w.Write(binary); err != nil {
				return nil, err
			}
		}
	}
	err := w.Close()
	return b.Bytes(), err
}
