package member_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/requorum/requorum/agent/member"
	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	"github.com/requorum/requorum/internal/etcdtest"
)

// The table is the one in doc.go.
func TestWhatEachCallNeedsWithAuthentication(t *testing.T) {
	c := etcdtest.Start(t, etcdtest.Options{Auth: true})
	addUser(t, c, "anyone", "")
	addUser(t, c, "reader", "reads")
	calls := map[string]func(context.Context, *member.Member) error{
		"status": func(ctx context.Context, m *member.Member) error {
			if s := m.Status(ctx); !s.Serving {
				return errors.New(s.Error)
			}
			return nil
		},
		"write": func(ctx context.Context, m *member.Member) error { return m.ConsensusWrite(ctx) },
		"read":  func(ctx context.Context, m *member.Member) error { return m.LinearizableRead(ctx) },
		"HashKV": func(ctx context.Context, m *member.Member) error {
			_, err := m.HashKV(ctx, 0)
			return err
		},
		"snapshot": func(ctx context.Context, m *member.Member) error {
			s, _, err := m.Snapshot(ctx)
			if err != nil {
				return err
			}
			return s.Close()
		},
		"learner": func(ctx context.Context, m *member.Member) error {
			err := m.AddLearner(ctx, []string{"http://127.0.0.1:1"})
			var notReady *member.NotReadyError
			if errors.As(err, &notReady) {
				return nil // permitted, but too soon
			}
			return err
		},
	}
	for _, tc := range []struct {
		user    string
		allowed string
		says    string
	}{
		{"", "", "set username and password_file"},
		{"anyone", "status write", "grant the user the role root"},
		{"reader", "status write read", "grant the user the role root"},
		{"root", "status write read HashKV snapshot learner", ""},
	} {
		t.Run("user "+tc.user, func(t *testing.T) {
			cfg := config(c, 0)
			cfg.Username = tc.user
			m := member.New(cfg, hclog.NewNullLogger())
			for name, call := range calls {
				err := call(t.Context(), m)
				if allowed := strings.Contains(tc.allowed, name); allowed != (err == nil) {
					t.Errorf("%s: %v", name, err)
				}
				if err != nil && !strings.Contains(err.Error(), tc.says) {
					t.Errorf("%s: %q is not in %q", name, tc.says, err)
				}
			}
		})
	}
}

// addUser adds a user with root's password, and with a role that may read every key, where one is named.
func addUser(t *testing.T, c *etcdtest.Cluster, user, role string) {
	t.Helper()
	client, ctx := c.Client(t), t.Context()
	_, err := client.UserAdd(ctx, user, c.Password)
	must(t, err)
	if role == "" {
		return
	}
	_, err = client.RoleAdd(ctx, role)
	must(t, err)
	_, err = client.RoleGrantPermission(ctx, role, "\x00", "\x00", clientv3.PermissionType(clientv3.PermRead))
	must(t, err)
	_, err = client.UserGrantRole(ctx, user, role)
	must(t, err)
}

func TestWrongPasswordThenRightOne(t *testing.T) {
	c := etcdtest.Start(t, etcdtest.Options{Auth: true})
	cfg := config(c, 0)
	cfg.PasswordFile = filepath.Join(t.TempDir(), "password")
	m := member.New(cfg, hclog.NewNullLogger())
	if state := m.Status(t.Context()); !strings.Contains(state.Error, "password_file in the agent's etcd section: open") {
		t.Errorf("without the file: %s", state.Error)
	}
	must(t, os.WriteFile(cfg.PasswordFile, []byte("wrong"), 0o600))
	if state := m.Status(t.Context()); !strings.Contains(state.Error, "check username and password_file") || strings.Contains(state.Error, "wrong") {
		t.Errorf("with the wrong password: %s", state.Error)
	}
	must(t, os.WriteFile(cfg.PasswordFile, []byte(c.Password+"\r\n"), 0o600))
	if state := m.Status(t.Context()); !state.Serving {
		t.Errorf("with the right password: %s", state.Error)
	}
}

func TestTokenOfAnEarlierLoginIsRenewed(t *testing.T) {
	c := etcdtest.Start(t, etcdtest.Options{Auth: true})
	m := of(c, 0)
	must(t, m.LinearizableRead(t.Context()))
	c.Stop(0)
	c.Restart(0) // forgets its tokens
	must(t, m.LinearizableRead(t.Context()))
}

// A member on restored data has applied less than the token's index says, and lets a call with it wait for ever.
func TestTokenFromBeforeARestoreIsNotShown(t *testing.T) {
	c := etcdtest.Start(t, etcdtest.Options{Auth: true})
	cfg := config(c, 0)
	cfg.DialTimeout = time.Second
	m := member.New(cfg, hclog.NewNullLogger())
	for try := 1; ; try++ {
		member.LoggedIn(m, "aaaaaaaaaaaaaaaa.1000000", "1")
		if state := m.Status(t.Context()); !state.Serving {
			break
		}
		// When time is up etcd refuses the token, which sometimes comes just before the call ends here; then m logs in.
		if try == 10 {
			t.Fatal("etcd answers a token of an index that it has not reached: nothing is tested")
		}
	}
	if state := m.Status(t.Context()); !state.Serving {
		t.Errorf("the token is shown again: %s", state.Error)
	}
	clusterID := m.Status(t.Context()).ClusterId
	member.LoggedIn(m, "aaaaaaaaaaaaaaaa.1000000", "1")
	if _, err := m.Verify(t.Context(), &agentv1.Verify{ClusterId: clusterID}); err != nil {
		t.Errorf("the token of another cluster is shown: %v", err)
	}
}

func TestCertificateOfAUserLogsIn(t *testing.T) {
	c := etcdtest.Start(t, etcdtest.Options{TLS: true, Auth: true})
	cfg := config(c, 0)
	cfg.Username, cfg.PasswordFile = "", ""
	cfg.CertFile, cfg.KeyFile = c.CA.Issue(t, "root")
	m := member.New(cfg, hclog.NewNullLogger())
	if _, err := m.HashKV(t.Context(), 0); err != nil {
		t.Error(err)
	}
}

func TestPasswordIsNoTroubleWhereAuthenticationIsOff(t *testing.T) {
	c := etcdtest.Start(t, etcdtest.Options{})
	cfg := config(c, 0)
	cfg.Username, cfg.PasswordFile = "root", "/nowhere"
	must(t, member.New(cfg, hclog.NewNullLogger()).LinearizableRead(t.Context()))
}
