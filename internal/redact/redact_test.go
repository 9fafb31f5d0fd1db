package redact_test

import (
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	journalv1 "github.com/requorum/requorum/gen/requorum/journal/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/internal/redact"
)

func TestSecretsAreTakenOutWhereverTheyAre(t *testing.T) {
	s3 := &agentv1.S3Remote{Bucket: "backups", AccessKey: "secret-a", SecretKey: "secret-b", SessionToken: "secret-c", Proxy: "http://u:secret-d@p"}
	remote := &agentv1.Remote{Name: "off-site", Kind: &agentv1.Remote_S3{S3: s3}}
	for name, m := range map[string]proto.Message{
		"upload":     &agentv1.Task{Id: "1", Spec: &agentv1.Task_UploadCopy{UploadCopy: &agentv1.UploadCopy{Remote: remote}}},
		"download":   &agentv1.Task{Spec: &agentv1.Task_DownloadCopy{DownloadCopy: &agentv1.DownloadCopy{Remote: remote, Identity: "secret-e"}}},
		"record":     &journalv1.TaskRecord{Task: &agentv1.Task{Spec: &agentv1.Task_DropRemote{DropRemote: &agentv1.DropRemote{Remote: remote}}}},
		"in a list":  &agentv1.OpenSessionResponse{Tasks: []*agentv1.Task{{}, {Spec: &agentv1.Task_ListRemote{ListRemote: &agentv1.ListRemote{Remote: remote}}}}},
		"files":      &agentv1.Task{Spec: &agentv1.Task_DownloadFiles{DownloadFiles: &agentv1.DownloadFiles{Remote: remote, Identity: "secret-e"}}},
		"compare":    &agentv1.Task{Spec: &agentv1.Task_CompareFiles{CompareFiles: &agentv1.CompareFiles{Remote: remote, Identity: "secret-e"}}},
		"plan":       &requorumv1.PlanRestoreRequest{Identity: "secret-f"},
		"restore":    &requorumv1.StartRestoreRequest{RequestId: "1", Identity: "secret-f"},
		"import":     &requorumv1.ImportSnapshotRequest{Identity: "secret-f"},
		"distribute": &requorumv1.DistributeSnapshotRequest{Identity: "secret-f"},
	} {
		before, err := protojson.Marshal(m)
		if err != nil || !strings.Contains(string(before), "secret") {
			t.Fatalf("%s: %s, %v", name, before, err)
		}
		clean := redact.Message(m)
		after, err := protojson.Marshal(clean)
		if err != nil || strings.Contains(string(after), "secret") {
			t.Errorf("%s: %s, %v", name, after, err)
		}
		if again, err := protojson.Marshal(m); err != nil || !strings.Contains(string(again), "secret") {
			t.Errorf("%s: the original was changed: %s, %v", name, again, err)
		}
		if redact.Message(clean) != clean {
			t.Errorf("%s: a message without secrets was copied", name)
		}
	}
	if got := redact.Message(&agentv1.Task{Spec: &agentv1.Task_UploadCopy{UploadCopy: &agentv1.UploadCopy{Remote: remote}}}); got.GetUploadCopy().GetRemote().GetS3().GetBucket() != "backups" {
		t.Error("what is not secret is to stay")
	}
}

func TestWhatWasTakenOutIsNamedByItsPath(t *testing.T) {
	s3 := &agentv1.S3Remote{Bucket: "backups", AccessKey: "a", SecretKey: "b"}
	remote := &agentv1.Remote{Kind: &agentv1.Remote_S3{S3: s3}}
	m := &agentv1.OpenSessionResponse{Tasks: []*agentv1.Task{{}, {Spec: &agentv1.Task_ListRemote{ListRemote: &agentv1.ListRemote{Remote: remote}}}}}
	clean, paths := redact.Fields(m)
	slices.Sort(paths)
	if want := []string{"tasks[1].list_remote.remote.s3.access_key", "tasks[1].list_remote.remote.s3.secret_key"}; !slices.Equal(paths, want) {
		t.Errorf("%v", paths)
	}
	if got := clean.GetTasks()[1].GetListRemote().GetRemote().GetS3(); got.GetSecretKey() != "" || got.GetBucket() != "backups" || s3.GetSecretKey() != "b" {
		t.Errorf("left: %v, of %v", got, s3)
	}
}
