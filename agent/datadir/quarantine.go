package datadir

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/requorum/requorum/internal/durable"
)

// RemoveQuarantine deletes a quarantine directory, which may be gone already. It refuses any directory
// that is not named like one or that does not hold the marker of a complete one. A removal that broke off is
// taken up again: the marker goes last.
func RemoveQuarantine(ctx context.Context, path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := checkQuarantine(path, info); err != nil {
		return err
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return err
		}
		if e.Name() == markerName {
			continue
		}
		if err := os.RemoveAll(filepath.Join(path, e.Name())); err != nil {
			return fmt.Errorf("remove quarantine: %w", err)
		}
	}
	if err := durable.SyncDir(path); err != nil {
		return err
	}
	return durable.RemoveAll(path)
}

func checkQuarantine(path string, info fs.FileInfo) error {
	refuse := func(reason string) error {
		return fmt.Errorf("%s %s; it is not removed", path, reason)
	}
	if !filepath.IsAbs(path) || !info.IsDir() {
		return refuse("is no directory with an absolute path")
	}
	m, err := readMarker(path)
	if err != nil {
		return err
	}
	if m == nil {
		return refuse("does not hold " + markerName)
	}
	base := filepath.Base(path)
	sibling := base == filepath.Base(m.From)+quarantineInfix+m.RestoreID
	hidden := base == hiddenQuarantine+m.RestoreID && strings.HasPrefix(base, hiddenPrefix)
	if m.RestoreID == "" || !sibling && !hidden {
		return refuse(fmt.Sprintf("is not named as the quarantine of restore %q", m.RestoreID))
	}
	return nil
}
