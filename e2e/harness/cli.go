package harness

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"
)

// Result is how a command ended.
type Result struct {
	Command        string
	Stdout, Stderr string
	Code           int
}

// String shows the command and all it said.
func (r Result) String() string {
	return fmt.Sprintf("requorum %s\nexit code %d\nstdout: %s\nstderr: %s", r.Command, r.Code, r.Stdout, r.Stderr)
}

// CLI runs a command of requorum as the admin.
func (c *Cluster) CLI(args ...string) Result {
	c.t.Helper()
	ctx, cancel := c.patient("requorum " + strings.Join(args, " ") + " did not end")
	defer cancel()
	cmd := exec.CommandContext(ctx, c.bin, args...)
	cmd.Env = append(os.Environ(), "REQUORUM_CONFIG="+c.AdminConfig(), "NO_COLOR=1")
	return c.run(ctx, cmd, args)
}

// Run runs any other command, as grpcurl.
func (c *Cluster) Run(name string, args ...string) Result {
	c.t.Helper()
	ctx, cancel := c.patient(name + " did not end")
	defer cancel()
	return c.run(ctx, exec.CommandContext(ctx, name, args...), args)
}

func (c *Cluster) run(ctx context.Context, cmd *exec.Cmd, args []string) Result {
	c.t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	r := Result{Command: strings.Join(args, " "), Stdout: stdout.String(), Stderr: stderr.String(), Code: cmd.ProcessState.ExitCode()}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		c.t.Fatalf("%s: %v", r.Command, err)
	}
	if ctx.Err() != nil {
		c.t.Fatalf("%v\n%s", context.Cause(ctx), r)
	}
	return r
}

// Do runs a command that must end with 0.
func (c *Cluster) Do(args ...string) Result {
	c.t.Helper()
	return c.Expect(0, args...)
}

// Expect runs a command that must end with that code, and with one clear error if it is not 0.
func (c *Cluster) Expect(code int, args ...string) Result {
	c.t.Helper()
	r := c.CLI(args...)
	if r.Code != code {
		c.t.Fatalf("want exit code %d\n%s", code, r)
	}
	if n := strings.Count("\n"+r.Stderr, "\nerror: "); code != 0 && n > 1 {
		c.t.Errorf("%d errors where one is enough\n%s", n, r)
	}
	if code != 0 && strings.TrimSpace(r.Stderr) == "" {
		c.t.Errorf("nothing says what is wrong\n%s", r)
	}
	return r
}

// JSON runs a command with -o json and decodes the answer, however the command ends.
func (c *Cluster) JSON(into proto.Message, args ...string) Result {
	c.t.Helper()
	r := c.CLI(append(args, "-o", "json")...)
	if err := protojson.Unmarshal([]byte(r.Stdout), into); err != nil {
		c.t.Fatalf("the answer is not the JSON of %s: %v\n%s", into.ProtoReflect().Descriptor().FullName(), err, r)
	}
	return r
}

// Operations returns every operation, the newest first.
func (c *Cluster) Operations() []*requorumv1.Operation {
	c.t.Helper()
	var ops []*requorumv1.Operation
	c.must(c.until("the controller does not answer", func(ctx context.Context) error {
		resp, err := requorumv1.NewOperationServiceClient(c.Conn()).ListOperations(ctx, &requorumv1.ListOperationsRequest{Cluster: Name, Limit: 1000})
		ops = resp.GetOperations()
		return err
	}))
	return ops
}

// Settle returns the newest operation once all have ended.
func (c *Cluster) Settle() *requorumv1.Operation {
	c.t.Helper()
	var newest *requorumv1.Operation
	c.must(c.until("the operation did not end", func(context.Context) error {
		newest = nil
		for _, op := range c.Operations() {
			if newest == nil {
				newest = op
			}
			if op.GetEnded() == nil {
				return fmt.Errorf("%s", protojson.MarshalOptions{}.Format(op))
			}
		}
		return nil
	}))
	return newest
}
