package s3test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

const (
	roleName  = "backup-role"
	roleARN   = "arn:aws:iam::123456789012:role/" + roleName
	container = "/v1/credentials"
)

// Roles hands out short-lived keys of a server, over HTTP: as the metadata service of a machine (its second version, which
// wants a token), as the credentials endpoint of a container, and as a token service for web identities. Keys are accounts
// of the server, which forgets them once they have expired. They have no session token, because this server does not
// know accounts with one.
type Roles struct {
	URL string // of all three

	server *Server
	life   time.Duration
	grace  time.Duration
	dir    string

	mu       sync.Mutex
	current  keys
	issued   int
	expired  int
	asked    int
	broken   bool
	refused  int
	identity string // the only web identity token that is taken
	changed  chan struct{}
	wg       sync.WaitGroup
	ended    chan struct{}
}

// keys are an account of the server.
type keys struct {
	access, secret string
	expires        time.Time
	replaced       time.Time // from when on others are handed out
}

// NewRoles starts to hand out keys that expire after life. The server takes them for grace longer, for requests that are on
// their way.
func (s *Server) NewRoles(t testing.TB, life, grace time.Duration) *Roles {
	t.Helper()
	r := &Roles{server: s, life: life, grace: grace, dir: t.TempDir(), changed: make(chan struct{}), ended: make(chan struct{})}
	mux := http.NewServeMux()
	mux.HandleFunc("PUT /latest/api/token", r.token)
	mux.HandleFunc("GET /latest/meta-data/iam/security-credentials/{$}", r.inMetadata(func(w http.ResponseWriter) { fmt.Fprint(w, roleName) }))
	mux.HandleFunc("GET /latest/meta-data/iam/security-credentials/"+roleName, r.inMetadata(r.answer))
	mux.HandleFunc("GET "+container, r.forContainer)
	mux.HandleFunc("POST /{$}", r.forIdentity)
	listener := httptest.NewServer(mux)
	r.URL = listener.URL
	t.Cleanup(func() {
		listener.Close()
		close(r.ended)
		r.wg.Wait()
	})
	return r
}

// Machine is the environment of a process on a machine with the role.
func (r *Roles) Machine() []string {
	return []string{"AWS_EC2_METADATA_SERVICE_ENDPOINT=" + r.URL + "/"}
}

// Container is the environment of a process in a container with the role, which shows a token.
func (r *Roles) Container() []string {
	return []string{"AWS_CONTAINER_CREDENTIALS_FULL_URI=" + r.URL + container, "AWS_CONTAINER_AUTHORIZATION_TOKEN=" + containerToken}
}

// Pod is the environment of a process in a pod with the role, which shows a token from a file.
func (r *Roles) Pod() []string {
	path := filepath.Join(r.dir, "pod-token")
	r.write(path, containerToken)
	return []string{"AWS_CONTAINER_CREDENTIALS_FULL_URI=" + r.URL + container, "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE=" + path}
}

// WebIdentity is the environment of a process with a web identity. Rotate replaces its token.
func (r *Roles) WebIdentity() []string {
	r.Rotate()
	return []string{"AWS_WEB_IDENTITY_TOKEN_FILE=" + r.identityFile(), "AWS_ROLE_ARN=" + roleARN, "AWS_ENDPOINT_URL_STS=" + r.URL}
}

func (r *Roles) identityFile() string { return filepath.Join(r.dir, "identity") }

// Rotate puts another token into the file of the web identity, and takes no older one any more.
func (r *Roles) Rotate() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.identity = fmt.Sprintf("identity-%d", time.Now().UnixNano())
	r.write(r.identityFile(), r.identity)
}

func (r *Roles) write(path, text string) {
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		r.server.t.Error(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		r.server.t.Error(err)
	}
}

// Break makes every question fail, or no more.
func (r *Roles) Break(broken bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.broken = broken
}

// Counts returns how many keys were handed out, and how many of them the server has forgotten. changed is closed when
// that is not so any more.
func (r *Roles) Counts() (issued, expired int, changed <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.issued, r.expired, r.changed
}

// Asked returns how often keys were asked for.
func (r *Roles) Asked() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.asked
}

// Refused returns how often a question failed because of Break.
func (r *Roles) Refused() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.refused
}

// Outlive waits until the server has forgotten one more pair of keys, or all that there are.
func (r *Roles) Outlive() {
	_, before, _ := r.Counts()
	for {
		issued, expired, changed := r.Counts()
		if expired > before || expired == issued {
			return
		}
		select {
		case <-changed:
		case <-r.ended:
			return
		}
	}
}

const (
	metadataToken  = "a-token-of-the-metadata-service"
	containerToken = "a-token-of-the-container"
)

func (r *Roles) token(w http.ResponseWriter, req *http.Request) {
	if r.refuses(w, req.Header.Get("X-Aws-Ec2-Metadata-Token-Ttl-Seconds") != "") {
		return
	}
	fmt.Fprint(w, metadataToken)
}

func (r *Roles) inMetadata(answer func(http.ResponseWriter)) http.HandlerFunc {
	return func(w http.ResponseWriter, req *http.Request) {
		if !r.refuses(w, req.Header.Get("X-Aws-Ec2-Metadata-Token") == metadataToken) {
			answer(w)
		}
	}
}

func (r *Roles) forContainer(w http.ResponseWriter, req *http.Request) {
	if !r.refuses(w, req.Header.Get("Authorization") == containerToken) {
		r.answer(w)
	}
}

func (r *Roles) forIdentity(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	identity := r.identity
	r.mu.Unlock()
	if r.refuses(w, true) {
		return
	}
	if req.FormValue("Action") != "AssumeRoleWithWebIdentity" || req.FormValue("RoleArn") != roleARN || req.FormValue("WebIdentityToken") != identity {
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprint(w, `<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><Error><Type>Sender</Type><Code>InvalidIdentityToken</Code><Message>the identity token is not taken</Message></Error><RequestId>1</RequestId></ErrorResponse>`)
		return
	}
	k := r.keys()
	fmt.Fprintf(w, `<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>%s</AccessKeyId><SecretAccessKey>%s</SecretAccessKey><Expiration>%s</Expiration></Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>`,
		k.access, k.secret, k.expires.UTC().Format(time.RFC3339Nano))
}

// refuses answers what is not allowed.
func (r *Roles) refuses(w http.ResponseWriter, allowed bool) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.broken:
		r.refused++
		http.Error(w, "broken", http.StatusInternalServerError)
	case !allowed:
		http.Error(w, "not without a token", http.StatusUnauthorized)
	default:
		return false
	}
	return true
}

// answer is that of a metadata service and of a container's endpoint.
func (r *Roles) answer(w http.ResponseWriter) {
	k := r.keys()
	err := json.NewEncoder(w).Encode(map[string]any{"Code": "Success", "AccessKeyId": k.access, "SecretAccessKey": k.secret, "Expiration": k.expires})
	if err != nil {
		r.server.t.Error(err)
	}
}

// keys returns the keys of this moment. They are the same for some time, as those of a real service are.
func (r *Roles) keys() keys {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked++
	now := time.Now()
	if now.Before(r.current.replaced) {
		return r.current
	}
	r.issued++
	k := keys{access: fmt.Sprintf("role-%d", r.issued), secret: fmt.Sprintf("secret-%d", r.issued), expires: now.Add(r.life), replaced: now.Add(r.life / 2)}
	r.current = k
	r.server.account(k.access, k.secret)
	r.announce()
	r.wg.Go(func() { r.forget(k) })
	return k
}

// forget makes the server forget keys once their time has come.
func (r *Roles) forget(k keys) {
	timer := time.NewTimer(time.Until(k.expires) + r.grace)
	defer timer.Stop()
	select {
	case <-r.ended:
		return
	case <-timer.C:
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.expired++
	r.server.account(k.access, "")
	r.announce()
}

// announce wakes who waits. The caller holds mu.
func (r *Roles) announce() {
	close(r.changed)
	r.changed = make(chan struct{})
}

// account makes the server take a pair of keys, or no more where secret is empty.
func (s *Server) account(access, secret string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.accounts, access)
	if secret != "" {
		s.accounts[access] = map[string]any{"access": access, "secret": secret, "role": "admin"}
	}
	data, err := json.Marshal(map[string]any{"accessAccounts": s.accounts})
	path := filepath.Join(s.iam, "users.json")
	if err == nil {
		err = os.WriteFile(path+".new", data, 0o600)
	}
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		s.t.Error(err)
	}
}
