package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"
)

// requorum runs a command as the admin, and returns what it prints as JSON.
func (b *Bed) requorum(ctx context.Context, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("requorum %s did not end within %s", strings.Join(args, " "), patience))
	defer cancel()
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, b.r.Settings.Binary, append(args, "-o", "json")...)
	cmd.Env = append(os.Environ(), "REQUORUM_CONFIG="+b.Cluster.AdminConfig())
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("requorum %s: %w\n%s", strings.Join(args, " "), err, stderr.String())
	}
	return stdout.Bytes(), nil
}

// save takes a snapshot, with further flags, and returns its operation, which has ended.
func (b *Bed) save(ctx context.Context, name string, flags ...string) (*requorumv1.Operation, error) {
	out, err := b.requorum(ctx, append([]string{"snapshot", "save", "--name", name}, flags...)...)
	if err != nil {
		return nil, err
	}
	var resp requorumv1.SaveSnapshotResponse
	if err := protojson.Unmarshal(out, &resp); err != nil {
		return nil, err
	}
	return resp.GetOperation(), nil
}

// restore restores the seed and returns its operation, which has ended.
func (b *Bed) restore(ctx context.Context) (*requorumv1.Operation, error) {
	out, err := b.requorum(ctx, "restore", "--snapshot", seedName, "--yes")
	if err != nil {
		return nil, err
	}
	var resp requorumv1.StartRestoreResponse
	if err := protojson.Unmarshal(out, &resp); err != nil {
		return nil, err
	}
	return resp.GetOperation(), nil
}

// removeSnapshots removes all snapshots but the seed.
func (b *Bed) removeSnapshots(ctx context.Context) error {
	out, err := b.requorum(ctx, "snapshot", "ls")
	if err != nil {
		return err
	}
	var all requorumv1.ListSnapshotsResponse
	if err := protojson.Unmarshal(out, &all); err != nil {
		return err
	}
	for _, s := range all.GetSnapshots() {
		if s.GetName() == seedName {
			continue
		}
		if _, err := b.requorum(ctx, "snapshot", "rm", s.GetName(), "--yes"); err != nil {
			return err
		}
	}
	return nil
}

// span is a time from one moment to another.
type span struct{ from, to time.Time }

func (s span) seconds() float64 { return s.to.Sub(s.from).Seconds() }

// steps returns when an operation did each of its steps.
func steps(op *requorumv1.Operation) map[string]span {
	all := map[string]span{}
	for _, s := range op.GetSteps() {
		all[s.GetName()] = span{s.GetStarted().AsTime(), s.GetEnded().AsTime()}
	}
	return all
}

// nodeOf returns the first node that a step of an operation ran on.
func nodeOf(op *requorumv1.Operation, step string) string {
	for _, s := range op.GetSteps() {
		if s.GetName() == step && len(s.GetTasks()) > 0 {
			return s.GetTasks()[0].GetNode()
		}
	}
	return ""
}
