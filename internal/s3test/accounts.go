package s3test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	accountID = "000000000000"
	region    = "us-east-1"
	roleName  = "backup-role"
	roleARN   = "arn:aws:iam::" + accountID + ":role/" + roleName
	roleID    = "AROA00000000000BACKUP"
)

// accounts is the server's service of accounts and tokens, a process of its own that listens on Unix sockets. As root it
// runs in a network namespace of its own, where it can be given an identity provider: it refuses those with private addresses.
type accounts struct {
	dir      string // short, as the names of sockets must be
	process  *exec.Cmd
	provider net.Listener // where its identity provider answers; nil unless root
	mu       sync.Mutex
}

// session is what a role's keys are: they work together with their token, until they expire.
type session struct {
	AccessKey string    `json:"accessKeyId"`
	SecretKey string    `json:"secretAccessKey"`
	Token     string    `json:"sessionToken"`
	RoleARN   string    `json:"roleArn"`
	RoleName  string    `json:"roleName"`
	RoleID    string    `json:"roleId"`
	Expires   time.Time `json:"expiration"`
}

func (a *accounts) file() string    { return filepath.Join(a.dir, "iam.json") }
func (a *accounts) private() string { return filepath.Join(a.dir, "private") }
func (a *accounts) public() string  { return filepath.Join(a.dir, "public") }

// startAccounts starts the service, with one role that may do everything with buckets.
func (s *Server) startAccounts() {
	s.t.Helper()
	dir, err := os.MkdirTemp("", "s3-")
	if err != nil {
		s.t.Fatal(err)
	}
	a := &accounts{dir: dir}
	s.accounts = a
	s.t.Cleanup(func() { s.stopAccounts() })
	if err := a.write(s.roles()); err != nil {
		s.t.Fatal(err)
	}
	a.process = exec.Command(Binary(s.t), "--access", AccessKey, "--secret", SecretKey, "--port", a.public(), "--health", "/health", "--quiet",
		"iam", "--dir", a.dir, "--private-ports", a.private())
	if err := a.launch(); err != nil {
		s.t.Fatal(err)
	}
	s.await(a.client(), "http://accounts/health")
}

// launch starts the process; in a network of its own, with the address of the identity provider, where that may be made.
func (a *accounts) launch() error {
	if _, err := exec.LookPath("ip"); err != nil || os.Geteuid() != 0 {
		return a.process.Start()
	}
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread and its network end with the goroutine
		started <- func() error {
			if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
				return fmt.Errorf("make a network namespace: %w", err)
			}
			for _, command := range []string{"addr add " + providerAddress + "/32 dev lo", "link set lo up"} {
				if out, err := exec.Command("ip", strings.Fields(command)...).CombinedOutput(); err != nil {
					return fmt.Errorf("ip %s: %w: %s", command, err, out)
				}
			}
			var err error
			if a.provider, err = net.Listen("tcp", net.JoinHostPort(providerAddress, "443")); err != nil {
				return err
			}
			return a.process.Start()
		}()
	}()
	return <-started
}

// client reaches the public side of the service, where tokens are handed out.
func (a *accounts) client() *http.Client {
	return &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", a.public())
	}}}
}

func (s *Server) stopAccounts() {
	a := s.accounts
	if a.process != nil && a.process.Process != nil {
		s.kill(a.process)
	}
	if a.provider != nil {
		_ = a.provider.Close() // closed already where a provider answered
	}
	if err := os.RemoveAll(a.dir); err != nil {
		s.t.Error(err)
	}
}

// roles is what the service knows at first: the role, and the provider whose identities may assume it.
func (s *Server) roles() map[string]any {
	provider := "arn:aws:iam::" + accountID + ":oidc-provider/" + providerAddress
	return map[string]any{
		"roles": map[string]any{roleName: map[string]any{
			"RoleName": roleName, "RoleID": roleID, "Arn": roleARN,
			"AssumeRolePolicyDocument": s.policy(map[string]any{
				"Action": "sts:AssumeRoleWithWebIdentity", "Principal": map[string]any{"Federated": provider},
				"Condition": map[string]any{"StringEquals": map[string]any{providerAddress + ":sub": subject}},
			}),
			"Policies": map[string]any{"inline": []any{map[string]any{
				"PolicyName": "everything", "PolicyDocument": s.policy(map[string]any{"Action": "s3:*", "Resource": "*"}),
			}}},
			// Later than any request, so that the service never writes it, and its file, while a test does.
			"RoleLastUsed": map[string]any{"LastUsedDate": time.Now().AddDate(1, 0, 0), "Region": region},
		}},
		"oidcProviders": map[string]any{providerAddress: map[string]any{
			"arn": provider, "url": providerAddress, "clientIDList": []string{audience}, "thumbprintList": []string{s.CA.Thumbprint()},
		}},
	}
}

func (s *Server) policy(statement map[string]any) string {
	s.t.Helper()
	statement["Effect"] = "Allow"
	text, err := json.Marshal(map[string]any{"Version": "2012-10-17", "Statement": []any{statement}})
	if err != nil {
		s.t.Fatal(err)
	}
	return string(text)
}

// assume makes keys of the role that expire at a time.
func (a *accounts) assume(number int, expires time.Time) (session, error) {
	keys := session{
		AccessKey: fmt.Sprintf("ASIA%016d", number), SecretKey: fmt.Sprintf("secret-%d", number), Token: fmt.Sprintf("token-%d", number),
		RoleARN: roleARN, RoleName: roleName, RoleID: roleID, Expires: expires,
	}
	return keys, a.edit(func(sessions map[string]any) error {
		sessions[keys.AccessKey] = keys
		return nil
	})
}

// expire makes the keys that the service has handed out expire at a time.
func (a *accounts) expire(accessKey string, at time.Time) error {
	return a.edit(func(sessions map[string]any) error {
		keys, ok := sessions[accessKey].(map[string]any)
		if !ok {
			return fmt.Errorf("the service knows no keys %s", accessKey)
		}
		keys["expiration"] = at
		return nil
	})
}

// edit changes the sessions that the service knows, which reads them anew for each request.
func (a *accounts) edit(change func(sessions map[string]any) error) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	text, err := os.ReadFile(a.file())
	if err != nil {
		return err
	}
	var all map[string]any
	if err := json.Unmarshal(text, &all); err != nil {
		return err
	}
	sessions, ok := all["sessions"].(map[string]any)
	if !ok {
		sessions = make(map[string]any)
	}
	if err := change(sessions); err != nil {
		return err
	}
	all["sessions"] = sessions
	return a.write(all)
}

func (a *accounts) write(all map[string]any) error {
	data, err := json.Marshal(all)
	if err != nil {
		return err
	}
	if err := os.WriteFile(a.file()+".new", data, 0o600); err != nil {
		return err
	}
	return os.Rename(a.file()+".new", a.file())
}
