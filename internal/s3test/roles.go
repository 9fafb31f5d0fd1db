package s3test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"sync"
	"testing"
	"time"
)

const container = "/v1/credentials"

// Roles hands out short-lived keys of a server, over HTTP: as the metadata service of a machine (its second version, which
// wants a token), and as the credentials endpoint of a container. For web identities it passes on to the server's own token
// service. Keys come with a session token, and the server refuses them once they have expired.
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
	provider *provider // of web identities; nil without
	identity string    // the only token of them that is passed on
	changed  chan struct{}
	wg       sync.WaitGroup
	ended    chan struct{}
}

// keys are those of a session.
type keys struct {
	session
	expires  time.Time // by what is said
	replaced time.Time // from when on others are handed out
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

// WebIdentity is the environment of a process with a web identity. Rotate replaces its token. The server's own token service
// takes the place of Amazon's, which only root can be given: it refuses identity providers with an address of loopback.
func (r *Roles) WebIdentity() []string {
	if r.provider == nil {
		r.provider = r.server.startProvider()
	}
	r.Rotate()
	return []string{"AWS_WEB_IDENTITY_TOKEN_FILE=" + r.identityFile(), "AWS_ROLE_ARN=" + roleARN, "AWS_ENDPOINT_URL_STS=" + r.URL}
}

func (r *Roles) identityFile() string { return filepath.Join(r.dir, "identity") }

// Rotate puts another token into the file of the web identity, and takes no older one any more.
func (r *Roles) Rotate() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.provider == nil {
		return
	}
	r.identity = r.provider.Token(nil)
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

// Impostor puts a token of the web identity with other claims into its file.
func (r *Roles) Impostor(claims map[string]any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.identity = r.provider.Token(claims)
	r.write(r.identityFile(), r.identity)
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

// forIdentity lets the server's own token service answer. It hands out keys for 15 minutes at least; these have less.
func (r *Roles) forIdentity(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	identity := r.identity
	r.mu.Unlock()
	if r.refuses(w, req.FormValue("WebIdentityToken") == identity) {
		return
	}
	status, answer, err := r.server.accounts.ask(req)
	if err != nil {
		r.server.t.Error(err)
	}
	if status == http.StatusOK {
		answer = r.shorten(answer)
	}
	w.WriteHeader(status)
	if _, err := w.Write(answer); err != nil {
		r.server.t.Error(err)
	}
}

var (
	accessKeyIn  = regexp.MustCompile(`<AccessKeyId>(.*)</AccessKeyId>`)
	expirationIn = regexp.MustCompile(`<Expiration>.*</Expiration>`)
)

func (r *Roles) shorten(answer []byte) []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked++
	k := r.next()
	if found := accessKeyIn.FindSubmatch(answer); found == nil {
		r.server.t.Errorf("no keys in %s", answer)
	} else if err := r.server.accounts.expire(string(found[1]), k.expires.Add(r.grace)); err != nil {
		r.server.t.Error(err)
	}
	return expirationIn.ReplaceAll(answer, []byte("<Expiration>"+k.expires.UTC().Format(time.RFC3339Nano)+"</Expiration>"))
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
	err := json.NewEncoder(w).Encode(map[string]any{
		"Code": "Success", "AccessKeyId": k.AccessKey, "SecretAccessKey": k.SecretKey, "Token": k.Token, "Expiration": k.expires,
	})
	if err != nil {
		r.server.t.Error(err)
	}
}

// keys returns the keys of this moment. They are the same for some time, as those of a real service are.
func (r *Roles) keys() keys {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked++
	if time.Now().Before(r.current.replaced) {
		return r.current
	}
	k := r.next()
	var err error
	if k.session, err = r.server.accounts.assume(r.issued, k.expires.Add(r.grace)); err != nil {
		r.server.t.Error(err)
	}
	r.current = k
	return k
}

// next counts keys, and says when they expire. The caller holds mu.
func (r *Roles) next() keys {
	now := time.Now()
	k := keys{expires: now.Add(r.life), replaced: now.Add(r.life / 2)}
	r.issued++
	r.announce()
	r.wg.Go(func() { r.outlived(k) })
	return k
}

// outlived counts keys that the server refuses from now on.
func (r *Roles) outlived(k keys) {
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
	r.announce()
}

// announce wakes who waits. The caller holds mu.
func (r *Roles) announce() {
	close(r.changed)
	r.changed = make(chan struct{})
}
