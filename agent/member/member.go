package member

import (
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
)

const (
	// defaultDialTimeout bounds connecting, and each call that a healthy member answers from memory.
	defaultDialTimeout = 5 * time.Second
	// consensusTimeout bounds a call that takes a quorum: above etcd's own limit, 5 s and two election timeouts.
	consensusTimeout = 15 * time.Second
	// defaultQuotaBytes is etcd's, for members too old to tell theirs.
	defaultQuotaBytes = 2 << 30
)

// Config says how to reach the node's member.
type Config struct {
	Endpoints []string // client URLs of the member; http and https, unix and unixs

	CAFile   string // PEM bundle that the member's certificate must come from; empty for the system's
	CertFile string // client certificate, PEM; empty for none
	KeyFile  string // its key, PEM

	Username     string // etcd user with the role root; empty where authentication is off or by certificate
	PasswordFile string // holds the user's password and perhaps a line end

	DialTimeout time.Duration // 0 for 5 s
	QuotaBytes  int64         // the member's quota-backend-bytes, for etcd before 3.6 which does not tell; 0 for 2 GiB
}

// Member asks one etcd member. It is safe for concurrent use and needs no closing.
type Member struct {
	cfg Config
	log hclog.Logger

	mu    sync.Mutex
	token token // of the last login
}

// token is what a login brings. etcd's simple tokens end in the raft index of the login, and a member that has not
// applied so much yet, as after a restore, waits for it instead of refusing the token.
type token struct {
	text      string // empty before the first login
	clusterID string // of the cluster that gave it
}

// New returns a Member. It does not connect.
func New(cfg Config, log hclog.Logger) *Member {
	if cfg.DialTimeout == 0 {
		cfg.DialTimeout = defaultDialTimeout
	}
	return &Member{cfg: cfg, log: log}
}
