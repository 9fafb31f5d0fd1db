package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/requorum/requorum/e2e/harness"
)

// The controller is driven with grpcurl alone, by reflection, as a hook in a shell script would.
func TestGrpcurl(t *testing.T) {
	t.Parallel()
	bin := grpcurl(t)
	c := harness.Start(t, harness.Options{})
	c.Write(200)
	saved := c.Now()
	call := func(method, request string) reply {
		t.Helper()
		admin := filepath.Dir(c.AdminConfig())
		r := c.Run(bin, "-cacert", filepath.Join(admin, "ca.crt"), "-cert", filepath.Join(admin, "client.crt"), "-key", filepath.Join(admin, "client.key"),
			"-d", request, c.Address, "requorum.v1."+method)
		if r.Code != 0 {
			t.Fatal(r)
		}
		var answer reply
		if err := json.Unmarshal([]byte(r.Stdout), &answer); err != nil {
			t.Fatalf("%v\n%s", err, r)
		}
		return answer
	}

	started := call("SnapshotService/SaveSnapshot", `{"cluster": "prod", "name": "before", "request_id": "hook-1"}`)
	if ended := call("OperationService/WaitOperation", fmt.Sprintf(`{"id": %q}`, started.Operation.ID)); ended.Operation.State != "OPERATION_STATE_SUCCEEDED" {
		t.Fatalf("saving: %+v", ended)
	}
	c.Write(100)
	started = call("RestoreService/StartRestore", `{"request_id": "hook-2", "spec": {"cluster": "prod", "snapshot": "before"}}`)
	if ended := call("OperationService/WaitOperation", fmt.Sprintf(`{"id": %q}`, started.Operation.ID)); ended.Operation.State != "OPERATION_STATE_SUCCEEDED" {
		t.Fatalf("restoring: %+v", ended)
	}
	holds(t, c, saved)

	admin := filepath.Dir(c.AdminConfig())
	r := c.Run(bin, "-cacert", filepath.Join(admin, "ca.crt"), c.Address, "requorum.v1.ClusterService/ListClusters")
	if r.Code == 0 {
		t.Errorf("without a certificate\n%s", r)
	}
}

// reply is what the answers have in common.
type reply struct {
	Operation struct{ ID, State string }
}

func grpcurl(t *testing.T) string {
	t.Helper()
	return tool(t, "GRPCURL", "buf.mod", "github.com/fullstorydev/grpcurl/cmd/grpcurl")
}

// tool returns a program: the one that a variable names, or one that is built from a module file of internal/tools.
func tool(t *testing.T, variable, mod, pkg string) string {
	t.Helper()
	if bin := os.Getenv(variable); bin != "" {
		return bin
	}
	bin := filepath.Join(t.TempDir(), filepath.Base(pkg))
	cmd := exec.CommandContext(t.Context(), "go", "build", "-buildvcs=false", "-modfile=internal/tools/"+mod, "-o", bin, pkg)
	cmd.Dir = ".."
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", pkg, err, out)
	}
	return bin
}
