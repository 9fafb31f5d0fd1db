package s3test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/requorum/requorum/internal/lacking"
)

const (
	providerAddress = "192.0.2.1" // of those that are kept for examples
	audience        = "sts.test"
	subject         = "system:serviceaccount:backup:requorum"
)

// provider is an identity provider as a Kubernetes API server is one: it signs tokens, and publishes the key to verify them.
type provider struct {
	server *Server
	key    *ecdsa.PrivateKey
}

// startProvider starts the identity provider that the server's token service trusts.
func (s *Server) startProvider() *provider {
	s.t.Helper()
	if s.accounts.provider == nil {
		lacking.Part(s.t, "only root can give the token service an identity provider, in a network namespace, with ip of iproute2")
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		s.t.Fatal(err)
	}
	p := &provider{server: s, key: key}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /.well-known/openid-configuration", p.answer(map[string]any{"issuer": "https://" + providerAddress, "jwks_uri": "https://" + providerAddress + "/keys"}))
	mux.HandleFunc("GET /keys", p.answer(map[string]any{"keys": []any{p.publicKey()}}))
	listener := &http.Server{Handler: mux, ReadHeaderTimeout: startWait}
	cert, keyFile := s.CA.IssueChainFor(s.t, "provider", providerAddress)
	ended := make(chan error, 1)
	go func() { ended <- listener.ServeTLS(s.accounts.provider, cert, keyFile) }()
	s.t.Cleanup(func() {
		if err := listener.Close(); err != nil {
			s.t.Error(err)
		}
		<-ended
	})
	return p
}

func (p *provider) answer(with any) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		if err := json.NewEncoder(w).Encode(with); err != nil {
			p.server.t.Error(err)
		}
	}
}

func (p *provider) publicKey() map[string]string {
	point, err := p.key.PublicKey.Bytes() // 4, x, y
	if err != nil {
		p.server.t.Fatal(err)
	}
	half := (len(point) - 1) / 2
	return map[string]string{
		"kty": "EC", "crv": "P-256", "kid": "one", "alg": "ES256",
		"x": base64.RawURLEncoding.EncodeToString(point[1 : 1+half]), "y": base64.RawURLEncoding.EncodeToString(point[1+half:]),
	}
}

// Token returns a token that nobody had before, with claims in place of the usual ones.
func (p *provider) Token(claims map[string]any) string {
	now := time.Now()
	all := jwt.MapClaims{
		"iss": "https://" + providerAddress, "aud": audience, "sub": subject, "iat": now.Unix(), "exp": now.Add(time.Hour).Unix(), "jti": rand.Text(),
	}
	maps.Copy(all, claims)
	token := jwt.NewWithClaims(jwt.SigningMethodES256, all)
	token.Header["kid"] = "one"
	text, err := token.SignedString(p.key)
	if err != nil {
		p.server.t.Error(err)
	}
	return text
}

// ask passes a request on to the token service.
func (a *accounts) ask(req *http.Request) (status int, answer []byte, err error) {
	on, err := http.NewRequestWithContext(req.Context(), http.MethodPost, "http://accounts/", strings.NewReader(req.Form.Encode()))
	if err != nil {
		return http.StatusInternalServerError, nil, err
	}
	on.Header.Set("Content-Type", req.Header.Get("Content-Type"))
	resp, err := a.client().Do(on)
	if err != nil {
		return http.StatusBadGateway, nil, err
	}
	defer resp.Body.Close()
	answer, err = io.ReadAll(resp.Body)
	return resp.StatusCode, answer, err
}
