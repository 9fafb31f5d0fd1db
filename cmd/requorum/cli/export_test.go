package cli

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"
)

type exportStream = grpc.ServerStreamingServer[requorumv1.ExportSnapshotResponse]

// sends makes the export stream a manifest and a file's bytes, and end as end does.
func sends(m *requorumv1.Manifest, data []byte, end func(exportStream) error) func(exportStream) error {
	return func(s exportStream) error {
		if err := s.Send(&requorumv1.ExportSnapshotResponse{Part: &requorumv1.ExportSnapshotResponse_Manifest{Manifest: m}}); err != nil {
			return err
		}
		for chunk := range slices.Chunk(data, 64<<10) {
			if err := s.Send(&requorumv1.ExportSnapshotResponse{Part: &requorumv1.ExportSnapshotResponse_Data{Data: chunk}}); err != nil {
				return err
			}
		}
		return end(s)
	}
}

func whenSent(exportStream) error { return nil }

func TestExportWritesTheFileThatTheManifestDescribes(t *testing.T) {
	for _, format := range []string{"table", "json"} {
		f := newFake(t)
		f.export = sends(manifest(), content, whenSent)
		path := filepath.Join(filepath.Dir(f.config), "prod.db")
		r := f.command(t, "snapshot", "export", "pre-1.31", "--file", path, "-o", format)
		golden(t, f, "snapshot-export-"+format, "snapshot export pre-1.31 --file DIR/prod.db -o "+format, r)
		written, err := os.ReadFile(path)
		if err != nil || !bytes.Equal(written, content) {
			t.Errorf("the file differs: %v", err)
		}
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("mode %v, %v", info.Mode(), err)
		}
	}
}

func TestExportThatFailsLeavesNothingBehind(t *testing.T) {
	flipped := bytes.Clone(content)
	flipped[len(flipped)/2] ^= 1
	huge := manifest()
	huge.Size = 1 << 60
	onlyData := func(s exportStream) error {
		return s.Send(&requorumv1.ExportSnapshotResponse{Part: &requorumv1.ExportSnapshotResponse_Data{Data: content}})
	}
	for name, c := range map[string]struct {
		export func(exportStream) error
		want   string
		code   int
	}{
		"cut by an error":      {sends(manifest(), content[:100<<10], func(exportStream) error { return status.Error(codes.DataLoss, "etcd-2 is gone") }), "after 100 of 273 KiB: etcd-2 is gone", 1},
		"ended early":          {sends(manifest(), content[:len(content)-1], whenSent), "the stream ended after 279999 of 280000 bytes", 1},
		"one bit differs":      {sends(manifest(), flipped, whenSent), "the file that came has MD5", 1},
		"too long":             {sends(manifest(), append(bytes.Clone(content), 0), whenSent), "more than the 280000 bytes of the manifest came", 1},
		"stands still":         {sends(manifest(), content[:100], func(s exportStream) error { <-s.Context().Done(); return nil }), "nothing came for", 1},
		"no manifest":          {onlyData, "did not send the manifest first", 1},
		"nothing":              {whenSent, "the controller sent nothing", 1},
		"does not fit":         {sends(huge, content, whenSent), "1024 PiB needed", 1},
		"no such snapshot":     {func(exportStream) error { return status.Error(codes.NotFound, "cluster prod has no snapshot x") }, "export x: cluster prod has no snapshot x", 3},
		"SHA-256 only differs": {sends(func() *requorumv1.Manifest { m := manifest(); m.Sha256 = strings.Repeat("0", 64); return m }(), content, whenSent), "the file that came has SHA-256", 1},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			f.export = c.export
			dir := t.TempDir()
			s := inTest()
			s.stall = 300 * time.Millisecond
			r := s.command(t.Context(), f, "snapshot", "export", "x", "--file", filepath.Join(dir, "prod.db"))
			if r.code != c.code || !strings.Contains(r.err, c.want) || r.out != "" {
				t.Errorf("exit %d, stdout %q, stderr\n%s", r.code, r.out, r.err)
			}
			if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
				t.Errorf("left behind: %v, %v", left, err)
			}
		})
	}
}

func TestExportNeverOverwritesUnlessTold(t *testing.T) {
	f := newFake(t)
	f.export = sends(manifest(), content, whenSent)
	dir := t.TempDir()
	path := filepath.Join(dir, "prod.db")
	write := func(path string) {
		t.Helper()
		if err := os.WriteFile(path, []byte("mine"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	read := func() string {
		t.Helper()
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	write(path)
	if r := f.command(t, "snapshot", "export", "x", "--file", path); r.code != ExitError || !strings.Contains(r.err, "is there already") || read() != "mine" {
		t.Errorf("exit %d, %s", r.code, r.err)
	}
	// The file appears while the transfer runs.
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	f.export = sends(manifest(), content, func(exportStream) error { write(path); return nil })
	if r := f.command(t, "snapshot", "export", "x", "--file", path); r.code != ExitError || read() != "mine" {
		t.Errorf("exit %d, %s", r.code, r.err)
	}
	if r := f.command(t, "snapshot", "export", "x", "--file", path, "--overwrite"); r.code != ExitDone || read() != string(content) {
		t.Errorf("exit %d, %s", r.code, r.err)
	}
	// Another export to the same file is running, or was killed.
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	write(path + ".part")
	if r := f.command(t, "snapshot", "export", "x", "--file", path); r.code != ExitError || !strings.Contains(r.err, "another export") {
		t.Errorf("exit %d, %s", r.code, r.err)
	}
	if r := f.command(t, "snapshot", "export", "x", "--file", dir); r.code != ExitUsage {
		t.Errorf("exit %d, %s", r.code, r.err)
	}
}
